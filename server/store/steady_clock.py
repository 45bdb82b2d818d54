"""SteadyClock: Unix time that advances evenly even if the system clock is set."""

import time
from collections.abc import Callable


class SteadyClock:
    """Unix time: the system clock's at construction, plus the monotonic time since then.

    If the system clock is set forward, nothing expires early; if it is set back, new entries are not older than
    existing ones. The next start of the server takes the system's time again.
    """

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._offset_s = wall() - monotonic()

    def __call__(self) -> float:
        return self._offset_s + self._monotonic()
