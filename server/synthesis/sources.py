"""Items of a recipe's source: each gives a line its first variables. The same files and seed give the same items."""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from engine.errors import InvalidRequest, OptionError, StartupError
from server.data.formats import SUFFIXES, decoded, paragraphs, read_lines
from server.data.lines import DataLine, FaultyData, parse_line
from server.data.words import words_of
from server.schemas.strict_json import parse_json
from server.synthesis.recipe import AnySource, Chats, Documents, NoSource, Prompts, Seeds, Tools
from server.synthesis.tool_calls import read_tool

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])")
_PLAIN = (".md", ".rst")  # read like .txt


@dataclass(frozen=True, slots=True)
class SourceItem:
    """One attempt to make a line. number: from 0. origin: the text's file and line, or ""."""

    number: int
    values: dict[str, Any]
    origin: str = ""


class Items(Protocol):
    """Items of a source. texts: those from which new ones are kept apart."""

    texts: Sequence[str]

    def take(self, first: int, count: int, accepted: Sequence[str], /) -> list[SourceItem]:
        """Return items from the number `first`; fewer if the source ends. accepted: questions of accepted lines."""
        ...


def open_source(source: AnySource, files: Sequence[str], seed: int) -> Items:
    """Read the files of a source. Raises OptionError and StartupError."""
    if isinstance(source, NoSource):
        if files:
            raise OptionError(f"the recipe's source is none, so it reads no files; leave {files[0]} out")
        return _EmptyItems()
    if not files:
        raise OptionError("the recipe needs files; give --input FILE, or write them into its source")
    match source:
        case Seeds():
            return _SeedItems(source, files, seed)
        case Prompts():
            prompts = [({"prompt": text}, path, line) for path in files for line, text in _questions(path)]
            return _ListedItems(prompts, source.passes, seed, texts=[values["prompt"] for values, _, _ in prompts])
        case Chats():
            chats = [(chat, path, line) for path in files for line, chat in _chats(path)]
            return _ListedItems(chats, source.passes, seed, texts=[values["prompt"] for values, _, _ in chats])
        case Tools():
            return _ToolItems(source, files, seed)
        case Documents():
            parts = [({"document": text}, path, line) for path in files for line, text in _parts_of(path, source.words)]
            return _ListedItems(parts, source.passes, seed)


class _EmptyItems:
    texts: Sequence[str] = ()

    def take(self, first: int, count: int, _accepted: Sequence[str], /) -> list[SourceItem]:
        return [SourceItem(number, {}) for number in range(first, first + count)]


class _SeedItems:
    def __init__(self, source: Seeds, files: Sequence[str], seed: int) -> None:
        self.texts: Sequence[str] = [text for path in files for _, text in _questions(path)]
        self._source = source
        self._seed = seed
        if len(self.texts) < source.examples:
            raise StartupError(
                f"the seeds have {len(self.texts)} tasks, and {source.examples} examples are drawn of them; give more"
            )

    def take(self, first: int, count: int, accepted: Sequence[str], /) -> list[SourceItem]:
        return [
            SourceItem(number, {"examples": self._examples(number, accepted)}) for number in range(first, first + count)
        ]

    def _examples(self, number: int, accepted: Sequence[str]) -> str:
        draw = random.Random(f"{self._seed}:{number}")
        num_accepted = min(self._source.accepted, len(accepted), self._source.examples)
        drawn = draw.sample(self.texts, self._source.examples - num_accepted) + draw.sample(accepted, num_accepted)
        draw.shuffle(drawn)
        return "\n".join(f"{index}. {' '.join(text.split())}" for index, text in enumerate(drawn, 1))


class _ListedItems:
    """Each part of the files in an order that is drawn, `passes` times."""

    def __init__(
        self, parts: Sequence[tuple[dict[str, str], str, int]], passes: int, seed: int, texts: Sequence[str] = ()
    ) -> None:
        """parts: values, file and line of each."""
        self.texts = texts
        self._parts = parts
        self._passes = passes
        self._seed = seed

    def take(self, first: int, count: int, _accepted: Sequence[str], /) -> list[SourceItem]:
        end = min(first + count, self._passes * len(self._parts))
        return [self._item(number) for number in range(first, end)]

    def _item(self, number: int) -> SourceItem:
        pass_number, place = divmod(number, len(self._parts))
        order = list(range(len(self._parts)))
        random.Random(f"{self._seed}:{pass_number}").shuffle(order)
        values, path, line = self._parts[order[place]]
        return SourceItem(number, {**values, "file": Path(path).name}, f"{Path(path).name}:{line}")


class _ToolItems(_ListedItems):
    """Each tool, with others that are drawn."""

    def __init__(self, source: Tools, files: Sequence[str], seed: int) -> None:
        found = [(tool, path, line) for path in files for line, tool in _tools(path)]
        self._tools: dict[str, dict[str, Any]] = {}
        for tool, path, line in found:
            if self._tools.setdefault(name := tool["function"]["name"], tool) is not tool:
                raise StartupError(f"{path}, line {line}: there is another tool {name}; give each its own name")
        parts = [({"tool_name": tool["function"]["name"]}, path, line) for tool, path, line in found]
        super().__init__(parts, source.passes, seed)
        self._num_others = min(source.offered, len(found)) - 1

    def take(self, first: int, count: int, accepted: Sequence[str], /) -> list[SourceItem]:
        return [self._with_tools(item) for item in super().take(first, count, accepted)]

    def _with_tools(self, item: SourceItem) -> SourceItem:
        name = item.values["tool_name"]
        draw = random.Random(f"{self._seed}:tools:{item.number}")
        names = [name, *draw.sample([each for each in self._tools if each != name], self._num_others)]
        draw.shuffle(names)
        tools = {"tool": self._tools[name]["function"], "tools": [self._tools[each] for each in names]}
        return replace(item, values={**item.values, **tools})


def _tools(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, data in _lines(path):
        try:
            yield number, read_tool(parse_json(data, "this line"))
        except InvalidRequest as error:
            raise StartupError(f"{path}, line {number}: {error}") from None


def _questions(path: str) -> Iterator[tuple[int, str]]:
    """Yield (line number, text) of the first question of each chat, or of each paragraph of a text."""
    for line in _data_lines(path):
        if text := (line.question or line.segments[0]).strip():
            yield line.number, text


def _chats(path: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, variables) of each chat; of a preference, its preferred answer. Raises StartupError for a
    line without a question or an answer."""
    for line in _data_lines(path):
        prompt, answer = line.question.strip(), next(iter(line.answers), "").strip()
        if not prompt or not answer:
            raise StartupError(
                f"{path}, line {line.number}: it has no {'answer' if prompt else 'question'}; chats have both"
            )
        yield line.number, {"prompt": prompt, "answer": answer}


def _data_lines(path: str) -> Iterator[DataLine]:
    for number, data in _lines(path):
        try:
            line, _ = parse_line(data, number, drops_fields=True)
        except FaultyData as error:
            raise StartupError(f"{path}, line {number}: {error}") from None
        yield line


def _parts_of(path: str, num_words: int) -> Iterator[tuple[int, str]]:
    """Yield (line number, text) of parts of about `num_words` words, of whole paragraphs or sentences."""
    start, part, count = 0, list[str](), 0
    for number, text in _paragraphs(path):
        length = len(words_of(text))
        pieces = [text] if length <= num_words else [each for each in _SENTENCE_END.split(text) if each.strip()]
        for piece in pieces:
            length = len(words_of(piece))
            if part and count + length > num_words:
                yield start, "".join(part).strip()
                part, count = [], 0
            start = start if part else number
            part.append(piece + (" " if len(pieces) > 1 else ""))
            count += length
        if part:
            part.append("\n\n")
    if part:
        yield start, "".join(part).strip()


def _paragraphs(path: str) -> Iterator[tuple[int, str]]:
    for number, data in _lines(path):
        value = parse_json(data, "this line")
        text = value.get("text") if isinstance(value, dict) else None
        if not isinstance(text, str):
            raise StartupError(
                f'{path}, line {number}: it has no text; documents are .txt or .md, or lines {{"text": ...}}'
            )
        yield number, text


def _lines(path: str) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file as JSON. Raises StartupError for a faulty or empty file, OptionError for its format."""
    is_empty = True
    suffix = Path(path).suffix.lower()
    if suffix not in (*SUFFIXES, *_PLAIN):
        raise OptionError(f"{path} has the suffix {suffix or '(none)'}; {', '.join((*SUFFIXES, *_PLAIN))} are read")
    try:
        if suffix in _PLAIN:
            lines = paragraphs(decoded(Path(path).expanduser().read_bytes()))
        else:
            lines = read_lines(path)
        for line in lines:
            is_empty = False
            yield line
    except FaultyData as error:
        raise StartupError(f"{path}: {error}") from None
    except OSError as error:
        raise OptionError(f"cannot read {path}: {error.strerror}; give another file") from error
    if is_empty:
        raise StartupError(f"{path} has no lines; leave it out, or give another file")
