"""Event log of a job: JSON lines in chronological order."""

import contextlib
import errno
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec


class JobEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event in the shape of OpenAI's fine-tuning events. kind: "metrics" for a step, "message" for all else."""

    created_at: float  # seconds since 1970
    message: str
    level: str = "info"  # or "warn", "error"
    kind: str = "message"
    data: dict[str, Any] = {}


class JobEventLog:
    """Appends events to a file. After a crash the last line may be incomplete; `parse_events` skips it."""

    def __init__(self, path: Path, on_event: Callable[[JobEvent], object] = lambda _: None) -> None:
        """on_event: also called with each event. Raises OSError."""
        self._on_event = on_event
        self._file = path.open("ab", buffering=0)
        if self._file.tell() and not _ends_with_newline(path):
            self._file.write(b"\n")

    def add(
        self,
        message: str,
        *,
        level: str = "info",
        kind: str = "message",
        data: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> JobEvent:
        """Append an event. data, more: merged into the event's machine-readable `data`. Raises OSError."""
        event = JobEvent(created_at=time.time(), message=message, level=level, kind=kind, data={**(data or {}), **more})
        line = msgspec.json.encode(event) + b"\n"
        if self._file.write(line) < len(line):  # a disk that fills up takes a part
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._on_event(event)
        return event

    def close(self) -> None:
        self._file.close()


def parse_events(data: bytes) -> list[JobEvent]:
    """Parse an event log, without incomplete lines."""
    decoder = msgspec.json.Decoder(JobEvent)
    events = []
    for line in data.splitlines():
        with contextlib.suppress(msgspec.DecodeError):  # a line that a crash cut
            events.append(decoder.decode(line))
    return events


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
