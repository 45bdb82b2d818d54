"""PrefixWaits: sets waiting sequences aside while a running sequence computes a prefix that they share."""

from collections import abc
from typing import NamedTuple

from engine.scheduling.fairness.fair_queue import FairQueue
from engine.scheduling.sequence import Sequence, SequenceStatus


class BranchPoint(NamedTuple):
    """A sequence, and the number of its first units that waiting sequences will share once it has computed them."""

    sequence: Sequence
    num_units: int


class PrefixWaits:
    """Sets aside the sequences that wait for a shared prefix, so that steps need not look at them: a burst with a new
    system prompt may bring hundreds.

    Invariants: each ready sequence that is set aside waits for a branch point; no ended sequence is kept.
    """

    def __init__(self, waiting: FairQueue, unit: int, *, num_uncached: abc.Callable[[Sequence], int]) -> None:
        """unit: tokens of a prefix unit. num_uncached: returns how many tokens a waiting sequence would have to compute
        if it were admitted now."""
        self._waiting = waiting
        self._unit = unit
        self._num_uncached = num_uncached
        self._waits: dict[BranchPoint, dict[Sequence, None]] = {}  # in the order in which the waits started
        self._points: dict[Sequence, BranchPoint] = {}  # of each waiting sequence

    def wait(self, sequence: Sequence, until: BranchPoint) -> None:
        """Set a waiting sequence aside until the blocks of the branch point are computed."""
        self._waiting.set_aside(sequence)
        self._waits.setdefault(until, {})[sequence] = None
        self._points[sequence] = until

    @property
    def branch_points(self) -> abc.Iterable[BranchPoint]:
        return self._waits.keys()

    def begin_step(self, tokens: abc.Mapping[Sequence, int]) -> None:
        """Requeue the sequences whose shared blocks are computed, or whose branch point's sequence no longer runs. If
        that sequence gets no token in this step, requeue the first of those that wait for it. tokens: the number of
        tokens in the step, by running sequence."""
        for point in list(self._waits):
            owner, num_units = point
            waits = self._waits[point]
            is_computing = owner.status is SequenceStatus.RUNNING and owner.num_computed < num_units * self._unit
            if is_computing and tokens.get(owner):
                continue
            for sequence in list(waits)[: 1 if is_computing else None]:
                self._put_back(sequence)

    def forget(self, sequence: Sequence) -> None:
        """Forget a sequence that has ended, and requeue the sequences that wait for its blocks."""
        if sequence in self._points:
            self._end_wait(sequence)
        for point in [point for point in self._waits if point.sequence is sequence]:
            for each in list(self._waits[point]):
                self._put_back(each)

    def _put_back(self, sequence: Sequence) -> None:
        """Requeue a sequence, with the number of tokens that it has to compute now."""
        self._end_wait(sequence)
        sequence.num_to_compute = self._num_uncached(sequence)
        self._waiting.put_back(sequence)

    def _end_wait(self, sequence: Sequence) -> None:
        point = self._points.pop(sequence)
        del self._waits[point][sequence]
        if not self._waits[point]:
            del self._waits[point]

    def check(self, waiting: abc.Iterable[Sequence]) -> None:
        """Assert the invariants, between steps."""
        known = {each: point for point, sequences in self._waits.items() for each in sequences}
        assert known == self._points
        assert set(known) == {each for each in waiting if each.is_ready and self._waiting.is_aside(each)}
        assert all(point.sequence.status is not SequenceStatus.FINISHED for point in self._waits)
