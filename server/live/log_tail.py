"""LogTail: keeps the last lines of the server's log, for its operator."""

import logging
import threading
import time
from collections import deque

import msgspec

MAX_LINES = 500
_MAX_CHARACTERS = 2000  # of a line
_TRACEBACK = logging.Formatter()


class LogLine(msgspec.Struct, frozen=True):
    """A record of the log. number: counted from 1."""

    number: int
    at_s: float
    level: str
    logger: str
    message: str


class LogLines(msgspec.Struct, frozen=True):
    """Lines of the log, oldest first. began_s: when the log began, which tells one server process from the next."""

    lines: list[LogLine]
    began_s: float


class LogTail(logging.Handler):
    """A handler that keeps the last MAX_LINES records, at most a megabyte. Records come from any thread."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[LogLine] = deque(maxlen=MAX_LINES)
        self._last = 0
        self._began_s = time.time()
        self._guard = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
            if record.exc_info:
                message = f"{message}\n{_TRACEBACK.formatException(record.exc_info)}"
        except Exception:  # noqa: BLE001 - a wrong call of the logger must not fail its caller, as in logging itself
            self.handleError(record)
            return
        with self._guard:
            self._last += 1
            self._lines.append(
                LogLine(self._last, record.created, record.levelname.lower(), record.name, message[:_MAX_CHARACTERS])
            )

    def after(self, number: int) -> LogLines:
        """Return the kept lines with a higher number."""
        with self._guard:
            return LogLines([line for line in self._lines if line.number > number], self._began_s)
