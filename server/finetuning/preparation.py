"""prepare: turns training and validation files into examples, and reports the lines that were dropped."""

import codecs
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from engine.command_io.finetuning.job import TrainingMethod
from engine.wording import counted
from server.data.duplicates import line_key
from server.finetuning.examples import Example, ExampleMaker, chats_of
from server.finetuning.faults import FileFault, InvalidLine
from server.finetuning.lines import TrainingChat, read_training_line
from server.finetuning.prompt_lines import PromptRules
from server.finetuning.rendering import Renderer

MIN_LINES = 10  # OpenAI's minimum; here without duplicates
_MAX_SHOWN = 10  # removed lines that a report names
_NUM_CHATS = 2  # whose questions the model answers after each epoch
_MAX_FAULTS = 100  # after which the rest of a file is not read
_REMOVED = {"in_validation_file": "are in the validation file", "duplicate": "repeat an earlier one"}  # by rule


class PreparationReport(msgspec.Struct, kw_only=True):
    """Counts from preparing the files. removed: line numbers of dropped lines, by the rule that dropped them.
    data_summary: counts of the data_preparation before; "" without one."""

    num_lines: int = 0
    num_items: int = 0
    num_valid_items: int = 0
    num_tokens: int = 0
    num_cut: int = 0  # to max_length
    removed: dict[str, list[int]] = {}
    data_summary: str = ""


def report_notes(report: PreparationReport) -> list[str]:
    """Format the report as sentences."""
    notes = [
        *([report.data_summary] if report.data_summary else []),
        f"{counted(report.num_lines, 'line')}: {counted(report.num_items, 'example')} of "
        f"{counted(report.num_tokens, 'token')}",
    ]
    for rule, numbers in report.removed.items():
        named = ", ".join(map(str, numbers[:_MAX_SHOWN])) + (", ..." if len(numbers) > _MAX_SHOWN else "")
        notes.append(f"left out lines that {_REMOVED[rule]} ({len(numbers):,}): {named}")
    if report.num_cut:
        notes.append(f"cut {counted(report.num_cut, 'example')} to --max-length")
    return notes


@dataclass(frozen=True, slots=True)
class PreparedFiles:
    """The examples in the files. train, valid: GradedPrompts for reinforcement, TrainingItems for all other methods.
    chats: the first chats of the validation file, or of the training file if there is none."""

    train: list[Example]
    valid: list[Example]
    chats: list[TrainingChat]
    report: PreparationReport


class FaultyFile(Exception):
    """A file that cannot be trained on. faults: at most a hundred. is_validation: whether it is the validation file."""

    is_validation = False

    def __init__(self, faults: list[FileFault]) -> None:
        super().__init__("; ".join(fault.text for fault in faults[:3]))
        self.faults = faults


@dataclass(slots=True)
class _File:
    items: list[tuple[int, bytes, list[Example]]] = field(default_factory=list)  # line, key, items
    chats: list[TrainingChat] = field(default_factory=list)
    num_lines: int = 0


def prepare(
    train: bytes, valid: bytes | None, method: TrainingMethod, renderer: Renderer, prompts: PromptRules | None = None
) -> PreparedFiles:
    """Parse and tokenize the files. prompts: rules for the prompts of reinforcement. Raises FaultyFile for a file with
    invalid or too few lines.

    Drops training lines that repeat an earlier line, or a line of the validation file, since the validation loss must
    be of unseen lines. Lines that differ only in case, character width or whitespace count as equal.
    """
    maker = ExampleMaker(renderer, prompts)
    read = _read(train, method, maker)
    try:
        validation = _File() if valid is None else _read(valid, method, maker)
    except FaultyFile as error:
        error.is_validation = True
        raise
    known = {key for _, key, _ in validation.items}
    seen: set[bytes] = set()  # keys of the lines that are kept
    removed: dict[str, list[int]] = {}
    items: list[Example] = []
    for line, key, each in read.items:
        rule = "in_validation_file" if key in known else "duplicate" if key in seen else None
        if rule is not None:
            removed.setdefault(rule, []).append(line)
            continue
        seen.add(key)
        items += each
    if not items:
        raise FaultyFile([FileFault("no line of the training file is left: the validation file has them all")])
    if method is not TrainingMethod.PRETRAINING and len(seen) < MIN_LINES:
        raise FaultyFile([_too_few(read.num_lines, len(seen), removed)])
    valid_items = [item for _, _, each in validation.items for item in each]
    report = PreparationReport(
        num_lines=read.num_lines,
        num_items=len(items),
        num_valid_items=len(valid_items),
        num_tokens=sum(item.num_tokens for item in items),
        num_cut=renderer.num_cut,
        removed=removed,
    )
    return PreparedFiles(items, valid_items, validation.chats or read.chats, report)


def _too_few(num_lines: int, num_left: int, removed: Mapping[str, Sequence[int]]) -> FileFault:
    """Return the fault of a training file with too few lines. removed: line numbers of dropped lines, by rule."""
    rules = " or ".join(f"{_REMOVED[rule]} ({len(numbers)})" for rule, numbers in removed.items())
    left = f", and {num_left} without those that {rules}" if removed else ""
    has = f"the training file has {counted(num_lines, 'line')}{left}"
    return FileFault(f"{has}; at least {MIN_LINES} are needed: add examples")


def _read(data: bytes, method: TrainingMethod, maker: ExampleMaker) -> _File:
    found, faults = _File(), []
    for number, line in _lines(data.removeprefix(codecs.BOM_UTF8), method):
        found.num_lines += 1
        try:
            content, value = read_training_line(line, method)
            items = maker.examples(content, number)
        except InvalidLine as error:
            faults.append(FileFault(str(error), number))
            if len(faults) >= _MAX_FAULTS:
                break
            continue
        except MemoryError:
            num_lines, found = found.num_lines, _File()
            message = f"the memory is full; about {num_lines:,} lines like these fit: divide the file"
            raise FaultyFile([FileFault(message, number)]) from None
        found.items.append((number, line_key(value), items))
        if len(found.chats) < _NUM_CHATS:
            found.chats += chats_of(content)
    if faults:
        raise FaultyFile(faults)
    if not found.num_lines:
        raise FaultyFile([FileFault("the file is empty; it needs a JSON object on each line")])
    return found


def _lines(data: bytes, method: TrainingMethod) -> Iterator[tuple[int, bytes]]:
    """Yield (line number, line), without blank lines. Plain text for pretraining is yielded as one line of JSON.

    Raises FaultyFile for plain text that is not UTF-8.
    """
    start = data.lstrip()[:1]
    if method is TrainingMethod.PRETRAINING and start and start != b"{":
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            number = data.count(b"\n", 0, error.start) + 1
            message = f"the byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
            raise FaultyFile([FileFault(message, number)]) from None
        yield 1, json.dumps({"text": text}).encode()
        return
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            yield number, line
