"""Statistics of the last requests: how long their answers were, and how late their first tokens were.

OutputLengths predicts when running answers end; Calibration scales predictions of first tokens.
"""

from bisect import bisect_left, bisect_right, insort
from collections import deque

_KEPT_LENGTHS = 256
_KEPT_RATIOS = 128
_MIN_KNOWN = 8  # with fewer requests, a guess is used
# Tokens. A short answer: before any has ended, no request should be refused because of a guess.
_FIRST_GUESS = 64
_LONG_REST = 256  # of an answer that is longer than all that are known
_QUANTILE = 0.9  # share of the requests whose first token came no later
_FIRST_FACTOR = 1.25
_MIN_S = 0.1  # shorter times are single steps, and say nothing of waits
_MIN_FACTOR, _MAX_FACTOR = 0.5, 4.0


class OutputLengths:
    """The lengths of recent answers in tokens, whatever their finish reason."""

    def __init__(self) -> None:
        self._lengths: deque[int] = deque()  # in the order in which they ended
        self._sorted: list[int] = []

    def add(self, length: int) -> None:
        if len(self._lengths) == _KEPT_LENGTHS:
            del self._sorted[bisect_right(self._sorted, self._lengths.popleft()) - 1]
        self._lengths.append(length)
        insort(self._sorted, length)

    @property
    def are_known(self) -> bool:
        """Whether enough answers have ended to estimate from their lengths."""
        return len(self._sorted) >= _MIN_KNOWN

    def mean(self, at_most: int) -> float:
        """Return the mean length, with each length cut to `at_most`."""
        num_shorter = bisect_right(self._sorted, at_most)
        total = sum(self._sorted[:num_shorter]) + at_most * (len(self._sorted) - num_shorter)
        num_guessed = max(0, _MIN_KNOWN - len(self._sorted))
        return (total + num_guessed * min(at_most, _FIRST_GUESS)) / (len(self._sorted) + num_guessed)

    def probability_of_end(self, length: int, num_more: float, at_most: int) -> float:
        """Return the probability that an answer of `length` tokens ends within `num_more` more tokens; 1 if it would
        reach the limit `at_most`.

        An answer that is longer than all recent ones is expected to continue for a while.
        """
        end = length + num_more
        if end >= at_most:
            return 1.0
        num_ended = bisect_right(self._sorted, length)
        num_longer = len(self._sorted) - num_ended
        if not self.are_known:
            return min(1.0, num_more / _FIRST_GUESS)
        if num_longer == 0:
            return min(1.0, num_more / _LONG_REST)
        return (bisect_right(self._sorted, end) - num_ended) / num_longer


class Calibration:
    """Recent ratios of the real to the predicted times of first tokens."""

    def __init__(self) -> None:
        self._ratios: deque[float] = deque()  # in the order in which they came
        self._sorted: list[float] = []

    @property
    def factor(self) -> float:
        """The 90th percentile of the ratios, within bounds."""
        if len(self._sorted) < _MIN_KNOWN:
            return _FIRST_FACTOR
        ratio = self._sorted[min(len(self._sorted) - 1, int(_QUANTILE * len(self._sorted)))]
        return min(_MAX_FACTOR, max(_MIN_FACTOR, ratio))

    def learn(self, predicted_s: float, real_s: float) -> None:
        if predicted_s < _MIN_S:
            return
        if len(self._ratios) == _KEPT_RATIOS:
            del self._sorted[bisect_left(self._sorted, self._ratios.popleft())]
        self._ratios.append(real_s / predicted_s)
        insort(self._sorted, self._ratios[-1])
