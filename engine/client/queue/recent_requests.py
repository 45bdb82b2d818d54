"""Calibration: how far what was predicted is to be trusted, learned from what came of it."""

from bisect import bisect_left, insort
from collections import deque

_NUM_KEPT = 128
_MIN_KNOWN = 8  # fewer say nothing
_QUANTILE = 0.9  # so many of the requests come no later
_FIRST_FACTOR = 1.25
_MIN_S = 0.1  # shorter times are those of single steps, and say nothing of waits
_MIN_FACTOR, _MAX_FACTOR = 0.5, 4.0


class Calibration:
    """The last ratios of real to predicted times."""

    def __init__(self) -> None:
        self._ratios: deque[float] = deque()  # in the order in which they came
        self._sorted: list[float] = []

    @property
    def factor(self) -> float:
        """The ratio that nine of ten requests stayed below."""
        if len(self._sorted) < _MIN_KNOWN:
            return _FIRST_FACTOR
        ratio = self._sorted[min(len(self._sorted) - 1, int(_QUANTILE * len(self._sorted)))]
        return min(_MAX_FACTOR, max(_MIN_FACTOR, ratio))

    def learn(self, predicted_s: float, real_s: float) -> None:
        if predicted_s < _MIN_S:
            return
        if len(self._ratios) == _NUM_KEPT:
            del self._sorted[bisect_left(self._sorted, self._ratios.popleft())]
        self._ratios.append(real_s / predicted_s)
        insort(self._sorted, self._ratios[-1])
