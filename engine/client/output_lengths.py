"""OutputLengths: how long answers were of late, which says when those that run will end."""

from bisect import bisect_right, insort
from collections import deque

_NUM_KEPT = 256
_MIN_KNOWN = 8  # fewer say nothing
_FIRST_GUESS = 256  # tokens, until so many are known


class OutputLengths:
    """The lengths of the last answers, in tokens, whatever ended them."""

    def __init__(self) -> None:
        self._lengths: deque[int] = deque()  # in the order in which they ended
        self._sorted: list[int] = []

    def add(self, length: int) -> None:
        if len(self._lengths) == _NUM_KEPT:
            del self._sorted[bisect_right(self._sorted, self._lengths.popleft()) - 1]
        self._lengths.append(length)
        insort(self._sorted, length)

    def mean(self, at_most: int) -> float:
        """Of the lengths, where none may be longer than `at_most`."""
        if len(self._sorted) < _MIN_KNOWN:
            return min(at_most, _FIRST_GUESS)
        num_shorter = bisect_right(self._sorted, at_most)
        return (sum(self._sorted[:num_shorter]) + at_most * (len(self._sorted) - num_shorter)) / len(self._sorted)

    def probability_of_end(self, length: int, num_more: float, at_most: int) -> float:
        """That an answer which has `length` tokens, and may have `at_most`, ends with its next `num_more`.

        Where no answer was as long, it is taken for one that goes on for a while.
        """
        end = length + num_more
        if end >= at_most:
            return 1.0
        num_ended = bisect_right(self._sorted, length)
        num_longer = len(self._sorted) - num_ended
        if len(self._sorted) < _MIN_KNOWN or num_longer == 0:
            return min(1.0, num_more / _FIRST_GUESS)
        return (bisect_right(self._sorted, end) - num_ended) / num_longer
