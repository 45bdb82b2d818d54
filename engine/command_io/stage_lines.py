"""StageLines: progress as lines, for logs and pipes. No torch here."""

import time
from collections.abc import Callable

from engine.command_io.stage_text import amount, described

_INTERVAL_S = 5.0


class StageLines:
    """A ProgressReport that writes a line when a stage begins, every five seconds, and when it is complete."""

    def __init__(self, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._stage: str | None = None
        self._began_s = 0.0
        self._written_s = 0.0

    def __call__(self, stage: str, done: int, total: int, unit: str) -> None:
        now_s = self._clock()
        if stage != self._stage:
            self._stage, self._began_s, self._written_s = stage, now_s, now_s
            self._write(f"{stage} ...")
        if 0 < total <= done:
            self._stage = None
            self._write(f"{stage}: {amount(total, unit)} in {now_s - self._began_s:.1f} s")
        elif now_s - self._written_s >= _INTERVAL_S and (far := described(done, total, unit)):
            self._written_s = now_s
            share = f" ({100 * done // total}%)" if total else ""
            self._write(f"{stage}: {far}{share}")

    def say(self, line: str) -> None:
        """Write a line that is not about the progress of a stage."""
        self._write(line)

    def close(self) -> None:
        """Do nothing: lines need no end."""
