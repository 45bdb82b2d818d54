"""SteadyClock: seconds since 1970 that advance evenly, even if the system's clock is set."""

import time
from collections.abc import Callable


class SteadyClock:
    """The system's time when the clock was made, plus the time that has passed since.

    If the system's clock is set forward, nothing expires early; if it is set back, new entries do not become the
    oldest. The next start of the server takes the system's time again.
    """

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._offset_s = wall() - monotonic()

    def __call__(self) -> float:
        return self._offset_s + self._monotonic()
