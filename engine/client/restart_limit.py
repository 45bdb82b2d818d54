"""RestartLimit: how often an engine may be started again."""

from collections import deque

MAX_RESTARTS = 3  # within the window; more means that it will not get better by itself
RESTART_WINDOW_S = 600.0


class RestartLimit:
    """Counts restarts within a sliding window."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()

    def take(self, now: float) -> bool:
        """Whether one more restart at `now` (time.monotonic()) is within the limit; it counts if so."""
        while self._times and now - self._times[0] > RESTART_WINDOW_S:
            self._times.popleft()
        if len(self._times) >= MAX_RESTARTS:
            return False
        self._times.append(now)
        return True
