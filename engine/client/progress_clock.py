"""ProgressClock: how long the engine has not got on with its work."""


class ProgressClock:
    """Seconds of silence since the last sign of progress.

    Only time in which this process itself ran counts: where it was stopped or starved, the engine's messages lie unread
    in the socket, and their absence says nothing. So a gap between two looks counts for at most `max_gap_s`; somebody
    must look more often than that.
    """

    def __init__(self, now: float, *, max_gap_s: float) -> None:
        """now: time.monotonic(), here and below."""
        self._max_gap_s = max_gap_s
        self._seen_s = now
        self._silent_s = 0.0

    def restart(self, now: float) -> None:
        """There was a sign of progress, or an idle engine got work."""
        self._seen_s, self._silent_s = now, 0.0

    def silent_s(self, now: float) -> float:
        """The silence so far; asking counts as a look."""
        self._silent_s += min(now - self._seen_s, self._max_gap_s)
        self._seen_s = now
        return self._silent_s
