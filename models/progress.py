"""Callbacks that report the progress of long operations."""

import threading
import time
from collections.abc import Callable

# (stage, done, total, unit): total 0 where unknown; unit "B" for bytes.
ProgressReport = Callable[[str, int, int, str], None]

# Called often while a step is computed: a step that does not call it for long counts as stalled.
StepProgress = Callable[[], object]


def ignore_report(_stage: str, _done: int, _total: int, _unit: str) -> None:
    """Do nothing: a ProgressReport for callers that show no progress."""


def ignore_progress() -> None:
    """Do nothing: a StepProgress for callers that watch no progress."""


class ByteCounter:
    """Counts the bytes of one stage, from any thread, and reports the progress at most ten times a second."""

    _REPORT_S = 0.1

    def __init__(self, stage: str, size: int, progress: ProgressReport) -> None:
        self._stage = stage
        self._size = size
        self._progress = progress
        self._done = 0
        self._reported_s = 0.0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._done += count
            now_s = time.monotonic()
            if self._done == self._size or now_s - self._reported_s >= self._REPORT_S:
                self._reported_s = now_s
                self._progress(self._stage, self._done, self._size, "B")

    def report_stage(self, stage: str) -> None:
        """Report that another stage is in progress, with an unknown size."""
        with self._lock:
            self._progress(stage, 0, 0, "B")
