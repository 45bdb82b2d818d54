"""TraceClock: times of day for monotonic times."""

import time


class TraceClock:
    """Reads both clocks once, when it is made: within a trace no time runs backwards, though the time of day may be
    set meanwhile. The engine's monotonic clock is the server's."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def epoch_ns(self, monotonic_s: float) -> int:
        """Nanoseconds since 1970. monotonic_s: by time.monotonic()."""
        return self._offset_ns + round(monotonic_s * 1e9)
