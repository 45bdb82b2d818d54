"""SteadyClock: seconds since 1970 that go on evenly, whatever is done to the system's clock meanwhile."""

import time
from collections.abc import Callable


class SteadyClock:
    """The system's time when it was made, and from then on what has passed.

    A clock that is set forward does not let everything expire at once, and one that is set back does not make what was
    just used the oldest. The next start takes the system's time again.
    """

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._offset_s = wall() - monotonic()

    def __call__(self) -> float:
        return self._offset_s + self._monotonic()
