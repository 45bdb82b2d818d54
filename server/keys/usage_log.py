"""UsageLog: writes a line of JSON for each finished request to a file."""

import asyncio
import contextlib
import datetime
import errno
import logging
import os
import select
import stat
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from engine.errors import OptionError
from server.keys.spending import utc_now
from server.metrics.request_record import RequestRecord
from server.metrics.values import Metrics

logger = logging.getLogger(__name__)

_MAX_LINES = 10_000  # waiting to be written
_FILE_MODE = 0o640
_PIPE_WAIT_S = 1.0  # for a pipe's reader, in one write


class UsageLog:
    """Writes the file of --usage-log. A thread writes the lines in order; lines that cannot be written are dropped and
    counted, and a warning is logged once.

    Before each write, the file is opened again if its path names another one, so the file may be renamed at any time.
    """

    def __init__(self, path: Path, metrics: Metrics, *, now: Callable[[], datetime.datetime] = utc_now) -> None:
        """Open the file. Raises OptionError if it cannot be written to."""
        self._path = path
        self._metrics = metrics
        self._now = now
        self._lines: deque[bytes] = deque()
        self._has_lines = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="usage-log")
        self._has_failed = False
        self._must_reopen = False
        try:
            self._file = _open(path)
        except OSError as error:
            raise OptionError(f"--usage-log {path} cannot be written: {_reason(error)}") from error

    def add(self, record: RequestRecord) -> None:
        """Queue the line of a finished request."""
        if len(self._lines) >= _MAX_LINES:
            self._lose(1, "it does not keep up")
            return
        self._lines.append(msgspec.json.encode(self._fields(record)) + b"\n")
        self._has_lines.set()

    def _fields(self, record: RequestRecord) -> dict[str, object]:
        now = self._now()
        return {
            "time": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "request_id": record.request_id,
            "key": record.key_name,
            "route": record.route,
            "model": record.model_name,
            "status": record.status,
            "outcome": record.outcome.value,
            "error": record.error_code,
            "prompt_tokens": record.counted_prompt_tokens,
            "cached_tokens": record.cached_tokens,
            "output_tokens": record.output_tokens,
            "duration_s": round(time.monotonic() - record.arrival_s, 3),
        }

    def reopen(self) -> None:
        """Open the path again before the next line."""
        self._must_reopen = True

    async def run(self) -> None:
        """Write lines as they come, until canceled."""
        while True:
            await self._has_lines.wait()
            await self.flush()

    async def flush(self) -> None:
        """Write all queued lines."""
        self._has_lines.clear()
        lines = list(self._lines)
        self._lines.clear()
        if not lines:
            return
        num_lost, reason = await asyncio.get_running_loop().run_in_executor(self._thread, self._write, lines)
        if num_lost:
            self._lose(num_lost, reason)
        else:
            self._has_failed = False

    def _write(self, lines: list[bytes]) -> tuple[int, str]:
        """Write each line as a whole or not at all; return the number of lost lines, and the reason for the loss."""
        try:
            self._follow_path()
            status = os.fstat(self._file)
        except OSError as error:
            return len(lines), _reason(error)
        if stat.S_ISREG(status.st_mode):
            return self._write_at(status.st_size, lines)
        return self._write_each(lines)

    def _write_at(self, size_before: int, lines: list[bytes]) -> tuple[int, str]:
        data = b"".join(lines)
        try:
            num_bytes = os.write(self._file, data)
        except OSError as error:
            return len(lines), _reason(error)
        if num_bytes == len(data):
            return 0, ""
        whole = data[:num_bytes].count(b"\n")
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, size_before + sum(map(len, lines[:whole])))
        return len(lines) - whole, "the disk is full"

    def _write_each(self, lines: list[bytes]) -> tuple[int, str]:
        """Write to a pipe line by line, which is atomic up to PIPE_BUF bytes. Its reader has a second to keep up."""
        ends_s = time.monotonic() + _PIPE_WAIT_S
        poller = select.poll()
        poller.register(self._file, select.POLLOUT)
        for number, line in enumerate(lines):
            try:
                while not _wrote(self._file, line):
                    if (left_s := ends_s - time.monotonic()) <= 0:
                        return len(lines) - number, "its reader does not keep up"
                    poller.poll(left_s * 1000)
            except OSError as error:
                return len(lines) - number, _reason(error)
        return 0, ""

    def _follow_path(self) -> None:
        """Open the path again if it names another file by now, or after `reopen`. Raises OSError."""
        held = os.fstat(self._file)
        try:
            found = os.stat(self._path)
            is_same = (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino)
        except FileNotFoundError:
            is_same = False
        if is_same and not self._must_reopen:
            return
        self._must_reopen = False
        newer = _open(self._path)
        os.close(self._file)
        self._file = newer

    def _lose(self, num_lines: int, reason: str) -> None:
        self._metrics.add("usage_lines_lost_total", num_lines)
        if not self._has_failed:
            logger.warning("--usage-log %s: lines are dropped: %s", self._path, reason)
        self._has_failed = True

    async def close(self) -> None:
        """Write all queued lines, and close the file."""
        await self.flush()
        self._thread.shutdown(wait=True)
        os.close(self._file)


def _open(path: Path) -> int:
    """Open without blocking, since opening a pipe would wait for its reader."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, _FILE_MODE)


def _wrote(file: int, line: bytes) -> bool:
    try:
        os.write(file, line)
    except BlockingIOError:
        return False
    return True


def _reason(error: OSError) -> str:
    if error.errno == errno.ENXIO:
        return "no process reads the pipe"
    return error.strerror or str(error)
