"""ask_lines: puts questions about lines to a model, many at a time, and keeps what was answered before a stop."""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from engine.errors import ContextLengthExceeded, StartupError
from server.data.preparation import KeptLine
from server.jobs.answers import AnswerBodies, BodyAnswer

# Lines whose requests are sent together: enough for a full engine, and few enough to lose little if it stops.
MAX_LINES = 64
_WORDS_PER_LINE = 128

Values = Mapping[tuple[int, int], Any]  # by file and line number


class LineQuestion(NamedTuple):
    """Requests about a line. read: makes a value for JSON of their answers. Raises StartupError for a refusal."""

    bodies: list[dict[str, Any]]
    read: Callable[[Sequence[BodyAnswer]], Any]


class _Entry(msgspec.Struct, frozen=True):
    key: str
    value: Any


class AnswerLog:
    """Values of lines that were answered, in a file, so that a preparation that starts again does not ask again. The
    file must be of one preparation, with its options and models. Without a path, nothing is kept."""

    def __init__(self, path: Path | None = None) -> None:
        """Raises OSError."""
        self._path = path
        self._values: dict[str, Any] = {}
        if path is not None and path.exists():
            for line in path.read_bytes().splitlines():
                with contextlib.suppress(msgspec.DecodeError):  # a line that a crash cut
                    entry = msgspec.json.decode(line, type=_Entry)
                    self._values[entry.key] = entry.value

    def known(self, step: str, lines: Sequence[KeptLine]) -> dict[tuple[int, int], Any]:
        """Return the values of the lines that the step has answered."""
        keys = ((line, _key(step, line)) for line in lines)
        return {(line.file, line.number): self._values[key] for line, key in keys if key in self._values}

    def add(self, step: str, values: Sequence[tuple[KeptLine, Any]]) -> None:
        """Keep values. Raises OSError."""
        if self._path is not None:
            parts = (msgspec.json.encode(_Entry(_key(step, line), value)) for line, value in values)
            with self._path.open("ab") as file:
                file.write(b"".join(b"\n" + part for part in parts))


def _key(step: str, line: KeptLine) -> str:
    digest = hashlib.blake2b(line.data, digest_size=8).hexdigest()
    return f"{step}:{line.file}:{line.number}:{digest}"


async def ask_lines(
    step: str,
    path: str,
    lines: Sequence[KeptLine],
    ask: Callable[[KeptLine], LineQuestion | None],
    answer: AnswerBodies,
    log: AnswerLog,
    show: Callable[[int], None],
    max_lines: int = MAX_LINES,
) -> Values:
    """Return the value of each line; None where `ask`, which is called in a thread, returns no question.

    path: of the endpoint that answers. show: called with the number of lines that are done. max_lines: lines whose
    requests are sent together; fewer long ones. Raises StartupError for a refused request, OSError, and errors of
    `ask`.
    """
    values = log.known(step, lines)
    for part in _parts([line for line in lines if (line.file, line.number) not in values], max_lines):
        show(len(values))
        questions = await asyncio.to_thread(lambda part: [ask(line) for line in part], part)
        bodies = [body for question in questions if question is not None for body in question.bodies]
        answers = iter(await answer(path, bodies) if bodies else ())
        new = []
        for line, question in zip(part, questions, strict=True):
            value = None if question is None else question.read([next(answers) for _ in question.bodies])
            new.append((line, value))
            values[line.file, line.number] = value
        log.add(step, new)
    show(len(values))
    return values


def _parts(lines: Sequence[KeptLine], max_lines: int) -> Iterator[list[KeptLine]]:
    part, num_words = list[KeptLine](), 0
    for line in lines:
        if part and (len(part) == max_lines or num_words + line.num_words > max_lines * _WORDS_PER_LINE):
            yield part
            part, num_words = [], 0
        part.append(line)
        num_words += line.num_words
    if part:
        yield part


def too_long_reason(answer: BodyAnswer) -> str | None:
    """Return the model's message if the request is longer than its context."""
    if answer.is_completed:
        return None
    error = msgspec.json.decode(answer.body)["error"]
    return str(error["message"]) if error.get("code") == ContextLengthExceeded.CODE else None


def check_answer(answer: BodyAnswer, line: KeptLine, done: str) -> None:
    """Raise StartupError for an answer that is an error. done: what the line cannot be, such as "scored"."""
    if not answer.is_completed:
        message = msgspec.json.decode(answer.body)["error"]["message"]
        raise StartupError(f"line {line.number} cannot be {done}: {message}")
