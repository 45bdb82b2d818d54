"""Source: the input file of a batch, validated as a whole and then read window by window."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from server.batches.lines import FaultyLine, Line, read_line
from server.errors import StorageFailed
from server.files.store import Files
from server.jobs.persistence import persist
from server.schemas.batch_answers import LineFault

T = TypeVar("T")

_GONE = LineFault("input_file_not_found", "the input file is no longer on the server's disk")

MAX_FAULTS = 100  # that are reported for one file

_CHUNK_BYTES = 1 << 20
_WINDOW_LINES, _WINDOW_BYTES = 256, 4 << 20  # of lines that are sorted, and held in memory
_WORK_S, _PAUSE_S = 0.002, 0.001  # of a thread that runs Python code
_KEY_BYTES = 4096  # of each part of a prompt by which lines are sorted


def digest_of(custom_id: str) -> bytes:
    """Return a digest that stands for the custom_id in sets. Lines whose digests collide would be lost."""
    return hashlib.blake2b(custom_id.encode(), digest_size=16).digest()


@dataclass(slots=True)
class Checked:
    """The result of validating an input file."""

    num_lines: int = 0
    model: str | None = None  # model that all lines name
    faults: list[LineFault] = field(default_factory=list)
    is_hopeless: bool = False  # the rest of the file is not checked


class Source:
    """The input file of a batch, all of whose lines are for one endpoint. Empty lines are skipped, but numbered.

    Failed reads are retried. Methods raise FaultyLine if the file is gone.
    """

    def __init__(
        self,
        files: Files,
        file_id: str,
        endpoint: str,
        *,
        max_line_bytes: int,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._files = files
        self._file_id = file_id
        self._endpoint = endpoint
        self._max_line_bytes = max_line_bytes
        self._sleep = sleep

    async def check(self, *, max_lines: int) -> Checked:
        """Validate every line, and report at most MAX_FAULTS faults."""
        checked = Checked()
        if self._file_id not in await self._read_disk(self._files.disk.names):
            checked.faults.append(_GONE)
            return checked
        seen: dict[bytes, int] = {}
        async for chunk in self._chunks():
            await asyncio.to_thread(self._check_lines, chunk, checked, seen)
            if checked.num_lines > max_lines:
                message = f"the file has more than {max_lines:,} requests (--max-batch-requests); make several batches"
                checked.faults, checked.is_hopeless = [LineFault("too_many_tasks", message)], True
            if len(checked.faults) >= MAX_FAULTS or checked.is_hopeless:
                break
        if not checked.num_lines and not checked.faults:
            checked.faults.append(LineFault("empty_file", "the file is empty; write one request on each line"))
        return checked

    def _check_lines(self, chunk: "list[tuple[int, bytes]]", checked: Checked, seen: dict[bytes, int]) -> None:
        for number, data in with_pauses(chunk):
            try:
                line = self._read(number, data)
                self._check_line(line, checked, seen)
            except FaultyLine as error:
                checked.faults.append(error.fault)
            checked.num_lines += 1
            if len(data) > self._max_line_bytes:
                checked.is_hopeless = True
            if len(checked.faults) >= MAX_FAULTS or checked.is_hopeless:
                return

    def _check_line(self, line: Line, checked: Checked, seen: dict[bytes, int]) -> None:
        """Check that the line's custom_id is new and its model is the first line's. Raises FaultyLine."""
        first = seen.setdefault(digest_of(line.custom_id), line.number)
        if first != line.number:
            message = f"custom_id is {line.custom_id[:60]!r}, as in line {first}; each must be unique in its batch"
            raise FaultyLine(LineFault("duplicate_custom_id", message, line.number, "custom_id"))
        model = line.body.get("model")
        if model is not None and not isinstance(model, str):
            raise FaultyLine(LineFault("invalid_type", "model must be a string", line.number, "body.model"))
        if len(seen) == 1:
            checked.model = model
        elif model != checked.model:
            message = f"{_describe(model)} here, and {_describe(checked.model)} in line 1; a batch has one model"
            raise FaultyLine(LineFault("model_mismatch", message, line.number, "body.model"))

    def _read(self, number: int, data: bytes) -> Line:
        if len(data) > self._max_line_bytes:
            message = f"this line has more than {self._max_line_bytes} bytes (--max-request-bytes)"
            raise FaultyLine(LineFault("line_too_long", message, number))
        return read_line(data, number, [self._endpoint])

    async def windows(self, done: Collection[bytes]) -> AsyncIterator[list[Line]]:
        """Yield the lines of a validated file in windows, each sorted so that lines with a common prompt prefix follow
        one another, and the prefix is computed only once.

        Raises FaultyLine for a line that is no longer valid, as after --max-request-bytes was lowered. done: digests of
        the custom_ids of lines to skip.
        """
        window: list[tuple[bytes, Line]] = []
        size = 0
        async for chunk in self._chunks():
            lines = await asyncio.to_thread(self._read_lines, chunk, done)
            for key, line, num_bytes in lines:
                window.append((key, line))
                size += num_bytes
                if len(window) >= _WINDOW_LINES or size >= _WINDOW_BYTES:
                    yield _sorted(window)
                    window, size = [], 0
        if window:
            yield _sorted(window)

    def _read_lines(self, chunk: "list[tuple[int, bytes]]", done: Collection[bytes]) -> list[tuple[bytes, Line, int]]:
        lines = ((self._read(number, data), len(data)) for number, data in with_pauses(chunk))
        return [(prefix_key(line.body), line, size) for line, size in lines if digest_of(line.custom_id) not in done]

    async def _chunks(self) -> AsyncIterator[list[tuple[int, bytes]]]:
        """Yield lists of (line number, line) without empty lines, about a megabyte at a time."""
        offset, number, rest = 0, 0, b""
        while data := await self._read_disk(self._files.disk.read, self._file_id, offset, _CHUNK_BYTES):
            offset += len(data)
            *lines, rest = (rest + data).split(b"\n") if b"\n" in data else (rest + data,)
            if len(rest) > self._max_line_bytes + _CHUNK_BYTES:  # a line that is reported as too long, and not held
                lines, rest = [*lines, rest], b""
            if lines:
                yield [(number + i, line) for i, line in enumerate(lines, 1) if line.strip()]
                number += len(lines)
        if rest.strip():
            yield [(number + 1, rest)]

    async def _read_disk(self, work: Callable[..., T], *arguments: object) -> T:
        async def read() -> T:
            try:
                return await self._files.on_disk(work, *arguments)
            except StorageFailed as error:
                if isinstance(error.__cause__, FileNotFoundError):
                    raise FaultyLine(_GONE) from error
                raise

        return await persist(read, f"the input file {self._file_id}", sleep=self._sleep)


def _sorted(window: list[tuple[bytes, Line]]) -> list[Line]:
    return [line for _, line in sorted(window, key=lambda each: each[0])]


_PROMPT_FIELDS = ("tools", "instructions", "messages", "input", "prompt")


def prefix_key(body: dict[str, Any]) -> bytes:
    """Return a sort key that places lines with a common prompt prefix next to each other."""
    parts = (body[name] for name in _PROMPT_FIELDS if body.get(name) is not None)
    return b"".join(msgspec.json.encode(part)[:_KEY_BYTES] for part in parts)


def with_pauses(
    items: Iterable[T], *, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> Iterator[T]:
    """Yield the items, and sleep after every few milliseconds of work on them, so that the event loop's thread gets the
    GIL.

    A thread that runs Python code releases the GIL up to 5 ms after another thread asks for it. Without the pauses,
    each token streamed to a client could be late by that much.
    """
    since_s = clock()
    for item in items:
        yield item
        if clock() - since_s >= _WORK_S:
            sleep(_PAUSE_S)
            since_s = clock()


def _describe(model: str | None) -> str:
    return "model is missing" if model is None else f"model is {model[:60]!r}"
