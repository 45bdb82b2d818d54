"""InputFile: a file of requests, all of which are validated before the first is run."""

import contextlib
import os
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import StartupError
from server.batches.lines import FaultyLine, Line, read_line
from server.batches.source import prefix_key
from server.schemas.base import quote

_PREFIX_BYTES = 512  # by which lines are ordered
_MAX_REPORTED = 5  # faults; the others are only counted


@dataclass(frozen=True, slots=True)
class InputLine:
    """The position of a request in the input file. number: counted from 1. prefix: sort key that brings requests with a
    common prompt prefix together."""

    number: int
    custom_id: str
    endpoint: str
    offset: int
    size: int
    prefix: bytes


class InputFile:
    """The requests of a file. A line is read again when it is run, since the file may be larger than memory."""

    def __init__(self, path: str, endpoints: Sequence[str], *, max_line_bytes: int) -> None:
        """Validate every line but blank ones. Raises StartupError for an invalid line, or a pipe."""
        self.path = path
        self.lines: list[InputLine] = []
        self.models: Counter[str] = Counter()  # names in the lines
        self._endpoints = endpoints
        self._faults: list[str] = []
        self._numbers: dict[str, int] = {}  # of custom_ids
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):  # checked first, since opening a pipe may block
                raise StartupError(f"{path} is not a regular file; lines are read twice, so write them to one")
            self._file = open(path, "rb")  # noqa: SIM115 - open until `close`
            self._check(max_line_bytes)
        except OSError as error:
            raise StartupError(f"cannot read {path}: {error.strerror}") from None
        if self._faults:
            raise StartupError(self._report())
        if not self.lines:
            raise StartupError(f"{path} has no requests; write one JSON object on each line")

    def _check(self, max_line_bytes: int) -> None:
        offset = 0
        for number, data in enumerate(self._file, start=1):
            if len(data) > max_line_bytes:
                self._faults.append(
                    f"line {number} has {len(data):,} bytes; the limit is {max_line_bytes:,} (--max-request-bytes)"
                )
            elif data.strip():
                self._check_line(data, number, offset)
            offset += len(data)

    def _check_line(self, data: bytes, number: int, offset: int) -> None:
        try:
            line = read_line(data, number, self._endpoints)
        except FaultyLine as faulty:
            self._faults.append(f"line {number}: {faulty.fault.message}")
            return
        if (first := self._numbers.setdefault(line.custom_id, number)) != number:
            self._faults.append(f"line {number}: custom_id {quote(line.custom_id)} is also that of line {first}")
            return
        if isinstance(model := line.body.get("model"), str):
            self.models[model] += 1
        self.lines.append(
            InputLine(number, line.custom_id, line.url, offset, len(data), prefix_key(line.body)[:_PREFIX_BYTES])
        )

    def _report(self) -> str:
        shown = "".join(f"\n  {fault}" for fault in self._faults[:_MAX_REPORTED])
        more = len(self._faults) - _MAX_REPORTED
        rest = f"\n  and {more:,} more" if more > 0 else ""
        what = "a line that is not a request" if len(self._faults) == 1 else "lines that are not requests"
        return f"{self.path} has {what}; nothing was run{shown}{rest}"

    def body(self, line: InputLine) -> dict[str, Any]:
        """Return the body of a request. Raises StartupError if the file has changed or cannot be read."""
        try:
            data = os.pread(self._file.fileno(), line.size, line.offset)
        except OSError as error:
            raise StartupError(f"cannot read {self.path}: {error.strerror}") from None
        read: Line | None = None
        with contextlib.suppress(FaultyLine):
            read = read_line(data, line.number, [line.endpoint])
        if read is None or read.custom_id != line.custom_id:
            raise StartupError(f"{self.path} was changed at line {line.number} while its requests were run")
        return read.body

    def close(self) -> None:
        self._file.close()
