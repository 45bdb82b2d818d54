"""Ray's own output of a command: lines that a user can act on, without colors in files."""

import contextlib
import io
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

_SERVE_LOGGER = "ray.serve"
_IGNORED_FIELDS = re.compile(r"differs from the existing one in the following fields: \[([^]]*)\]")
_NOISE = re.compile(
    r"Task ServeController\.\w+ failed\. There are infinite retries"  # a fleet's end
    r"|replicas that have taken more than \w+ to initialize"  # models are being loaded, as other lines say
    r"|This may be caused by a slow __init__"
)
_LOST_REPLICA = re.compile(r"Failed to get queue length from|is temporarily unavailable")  # Ray's controller says it
_OTHER_MACHINES = re.compile("won't accept connections from HAProxy on other nodes")


def quiet_serve() -> None:
    """Show warnings of Ray Serve in this process only, without those about a replica that did not answer this command,
    and no colors in what is not a terminal. Must be called before Ray connects, and after Ray Serve is imported, which
    sets the level."""
    serve_logger = logging.getLogger(_SERVE_LOGGER)
    serve_logger.setLevel(logging.WARNING)
    serve_logger.addFilter(_is_shown)
    if not sys.stderr.isatty():
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")


def _is_shown(record: logging.LogRecord) -> bool:
    return not _LOST_REPLICA.search(record.getMessage())


@contextlib.contextmanager
def fields_ignored() -> Iterator[list[str]]:
    """Yield a list that gets the names of HTTP options which Ray Serve logs to ignore, in place of its log line."""
    found: list[str] = []

    def take(record: logging.LogRecord) -> bool:
        fields = _IGNORED_FIELDS.search(record.getMessage())
        if fields is not None:
            found.extend(name.strip(" '\"") for name in fields[1].split(","))
        return fields is None

    serve_logger = logging.getLogger(_SERVE_LOGGER)
    serve_logger.addFilter(take)
    try:
        yield found
    finally:
        serve_logger.removeFilter(take)


@contextlib.contextmanager
def without_noise(*, has_other_machines: bool) -> Iterator[None]:
    """Print no lines of Ray that a user cannot act on. has_other_machines: whether fronts on other machines matter."""
    patterns = [_NOISE] if has_other_machines else [_NOISE, _OTHER_MACHINES]
    with contextlib.redirect_stderr(_Filtered(sys.stderr, patterns)):
        yield


class _Filtered(io.TextIOBase):
    """A text stream without the pieces in which a pattern is found, and without the end of their line, which Ray writes
    by another call."""

    def __init__(self, stream: TextIO, patterns: Sequence[re.Pattern[str]]) -> None:
        self._stream = stream
        self._patterns = patterns
        self._drops_end = False

    def write(self, text: str) -> int:
        is_end = self._drops_end and text == "\n"
        is_noise = any(pattern.search(text) for pattern in self._patterns)
        self._drops_end = is_noise and not text.endswith("\n")
        if not is_end and not is_noise:
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()
