"""A batch's input: checked as a whole, and then read window by window."""

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from server.batches.lines import FaultyLine, Line, read_line
from server.errors import StorageFailed
from server.files.store import Files
from server.schemas.batch_answers import LineFault

logger = logging.getLogger(__name__)
T = TypeVar("T")

_GONE = LineFault("input_file_not_found", "the input file is no longer on the server's disk")

MAX_FAULTS = 100  # told of one file

_CHUNK_BYTES = 1 << 20
_WINDOW_LINES, _WINDOW_BYTES = 256, 4 << 20  # of lines that are put in order, and held
_RETRY_S = 5.0
_WORK_S, _PAUSE_S = 0.002, 0.001  # of a thread that runs Python code
_KEY_BYTES = 4096  # of what two lines may have in common


def digest_of(custom_id: str) -> bytes:
    """What is held of a custom_id to know it again: of a collision, a line would be lost."""
    return hashlib.blake2b(custom_id.encode(), digest_size=16).digest()


@dataclass(slots=True)
class Checked:
    """What a whole file turned out to be."""

    num_lines: int = 0
    model: str | None = None  # that all lines name
    faults: list[LineFault] = field(default_factory=list)
    is_hopeless: bool = False  # nothing behind what was looked at matters


class Source:
    """One input file, whose lines are for one endpoint. Empty lines count as lines, and are not requests.

    A disk that fails is waited for. FaultyLine is raised for a file that is gone.
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
        """Look at every line. No more than MAX_FAULTS are told."""
        checked = Checked()
        if self._file_id not in await self._patiently(self._files.disk.names):
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
        """Raises FaultyLine for what is wrong with it beside the others."""
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
            message = f"{_told(model)} here, and {_told(checked.model)} in line 1; a batch has one model"
            raise FaultyLine(LineFault("model_mismatch", message, line.number, "body.model"))

    def _read(self, number: int, data: bytes) -> Line:
        if len(data) > self._max_line_bytes:
            message = f"this line has more than {self._max_line_bytes} bytes (--max-request-bytes)"
            raise FaultyLine(LineFault("line_too_long", message, number))
        return read_line(data, number, self._endpoint)

    async def windows(self, done: Collection[bytes]) -> AsyncIterator[list[Line]]:
        """The lines, of a file that was checked, a bounded number at a time. Within a window those come together that
        begin alike: what they have in common is computed once, however the file has them.

        Raises FaultyLine for a line that is no longer a request: an earlier server allowed longer ones. done: digests
        of the custom_ids of those that are left out.
        """
        window: list[tuple[bytes, Line]] = []
        size = 0
        async for chunk in self._chunks():
            lines = await asyncio.to_thread(self._wanted, chunk, done)
            for key, line, num_bytes in lines:
                window.append((key, line))
                size += num_bytes
                if len(window) >= _WINDOW_LINES or size >= _WINDOW_BYTES:
                    yield _in_order(window)
                    window, size = [], 0
        if window:
            yield _in_order(window)

    def _wanted(self, chunk: "list[tuple[int, bytes]]", done: Collection[bytes]) -> list[tuple[bytes, Line, int]]:
        lines = ((self._read(number, data), len(data)) for number, data in with_pauses(chunk))
        return [(prefix_key(line.body), line, size) for line, size in lines if digest_of(line.custom_id) not in done]

    async def _chunks(self) -> AsyncIterator[list[tuple[int, bytes]]]:
        """Numbered lines without those that are empty, of some megabytes at a time."""
        offset, number, rest = 0, 0, b""
        while data := await self._patiently(self._files.disk.read, self._file_id, offset, _CHUNK_BYTES):
            offset += len(data)
            *lines, rest = (rest + data).split(b"\n") if b"\n" in data else (rest + data,)
            if len(rest) > self._max_line_bytes + _CHUNK_BYTES:  # told as too long, and not held
                lines, rest = [*lines, rest], b""
            if lines:
                yield [(number + i, line) for i, line in enumerate(lines, 1) if line.strip()]
                number += len(lines)
        if rest.strip():
            yield [(number + 1, rest)]

    async def _patiently(self, work: Callable[..., T], *arguments: object) -> T:
        while True:
            try:
                return await self._files.on_disk(work, *arguments)
            except StorageFailed as error:
                if isinstance(error.__cause__, FileNotFoundError):
                    raise FaultyLine(_GONE) from error
                logger.warning("the input file %s cannot be read now: %s", self._file_id, error)
                await self._sleep(_RETRY_S)


def _in_order(window: list[tuple[bytes, Line]]) -> list[Line]:
    return [line for _, line in sorted(window, key=lambda each: each[0])]


_PROMPT_FIELDS = ("tools", "instructions", "messages", "input", "prompt")


def prefix_key(body: dict[str, Any]) -> bytes:
    """Lines whose prompts begin alike have keys that begin alike."""
    parts = (body[name] for name in _PROMPT_FIELDS if body.get(name) is not None)
    return b"".join(msgspec.json.encode(part)[:_KEY_BYTES] for part in parts)


def with_pauses(
    items: Iterable[T], *, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> Iterator[T]:
    """Yield the items, with a pause after every few milliseconds of the caller's work on them, in which the event loop
    gets Python's lock.

    A thread that only runs Python code releases the lock 5 ms after another thread asks for it. Without pauses, this
    would be added whenever the event loop wakes for a client's token.
    """
    since_s = clock()
    for item in items:
        yield item
        if clock() - since_s >= _WORK_S:
            sleep(_PAUSE_S)
            since_s = clock()


def _told(model: str | None) -> str:
    return "model is missing" if model is None else f"model is {model[:60]!r}"
