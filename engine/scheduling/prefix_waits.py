"""PrefixWaits: waiting sequences whose prefix a running one computes; they are set aside until it has."""

from collections import abc
from typing import NamedTuple

from engine.scheduling.fair_queue import FairQueue
from engine.scheduling.sequence import Sequence, SequenceStatus


class BranchPoint(NamedTuple):
    """A sequence that computes what waiting ones will share: its first `num_blocks` blocks."""

    sequence: Sequence
    num_blocks: int


class PrefixWaits:
    """Without it each step would ask each of them again: hundreds, where a new system prompt comes with a burst.

    Invariant: of those that are set aside, and not compiling, each waits at a branch point.
    """

    def __init__(self, waiting: FairQueue, block_size: int) -> None:
        self._waiting = waiting
        self._block_size = block_size
        self._waits: dict[BranchPoint, list[Sequence]] = {}  # in the order in which they began

    def wait(self, sequence: Sequence, until: BranchPoint) -> None:
        """Set a waiting sequence aside until the other's blocks are computed."""
        self._waiting.set_aside(sequence)
        self._waits.setdefault(until, []).append(sequence)

    @property
    def branch_points(self) -> abc.Iterable[BranchPoint]:
        return self._waits.keys()

    def begin_step(self, tokens: abc.Mapping[Sequence, int]) -> None:
        """Put back those whose wait is over: what they share is computed, or never will be by the other. `tokens`: that
        each running sequence is to get of the step. Of those behind one that gets none, the first goes on alone."""
        for point in list(self._waits):
            owner, num_blocks = point
            waits = self._waits[point]
            is_computing = owner.status is SequenceStatus.RUNNING and owner.num_computed < num_blocks * self._block_size
            if is_computing and tokens.get(owner):
                continue
            num_done = 1 if is_computing else len(waits)
            for sequence in waits[:num_done]:
                self._put_back(sequence)
            if num_done == len(waits):
                del self._waits[point]
            else:
                del waits[:num_done]

    def _put_back(self, sequence: Sequence) -> None:
        if sequence.status is SequenceStatus.WAITING:
            self._waiting.put_back(sequence)

    def check(self, waiting: abc.Iterable[Sequence]) -> None:
        """Assert the invariant, between steps."""
        known = {each for sequences in self._waits.values() for each in sequences}
        assert known.issuperset(each for each in waiting if each.is_ready and self._waiting.is_aside(each))
