"""OutputLengths: how long answers were of late, which says when those that run will end."""

from bisect import bisect_right, insort
from collections import deque

_NUM_KEPT = 256
_MIN_KNOWN = 8  # of fewer, the others are guessed
# Tokens. A short answer: before any has ended, nobody should be refused for what is not known.
_FIRST_GUESS = 64
_LONG_REST = 256  # of one that is longer than all that are known


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

    @property
    def are_known(self) -> bool:
        """Whether enough answers have ended."""
        return len(self._sorted) >= _MIN_KNOWN

    def mean(self, at_most: int) -> float:
        """Of the lengths, where none may be longer than `at_most`."""
        num_shorter = bisect_right(self._sorted, at_most)
        total = sum(self._sorted[:num_shorter]) + at_most * (len(self._sorted) - num_shorter)
        num_guessed = max(0, _MIN_KNOWN - len(self._sorted))
        return (total + num_guessed * min(at_most, _FIRST_GUESS)) / (len(self._sorted) + num_guessed)

    def probability_of_end(self, length: int, num_more: float, at_most: int) -> float:
        """That an answer which has `length` tokens, and may have `at_most`, ends with its next `num_more`.

        Where no answer was as long, it is taken for one that goes on for a while.
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
