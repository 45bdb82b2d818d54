"""TimeLimits: finds the sequences that have timed out, by a heap of time limits."""

import heapq
from collections import abc

from engine.protocol import FinishReason
from engine.scheduling.sequence import Sequence, SequenceStatus

_MIN_SWEEP = 64  # entries; fewer are not worth sweeping


class TimeLimits:
    """A heap of sequences' time limits. Sequences without limits cost nothing.

    A deadline applies to waiting and running sequences. The queue timeout applies until a sequence is first admitted: a
    started sequence continues, even if it is preempted.

    Entries whose limit no longer applies are removed when they reach the top, or when the heap has twice as many
    entries as after the last sweep: so an entry costs O(log n), and memory stays in proportion.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Sequence, FinishReason]] = []
        self._num_added = 0  # makes entries unique: sequences do not compare
        self._swept_at = _MIN_SWEEP

    @property
    def next_s(self) -> float | None:
        """The earliest time limit that applies, on the clock of EngineRequest.arrival_s, or None."""
        while self._heap and not _applies(*self._heap[0][2:]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def add(self, sequence: Sequence) -> None:
        for limit_s, reason in _limits(sequence):
            if len(self._heap) >= self._swept_at:
                self._heap = [entry for entry in self._heap if _applies(*entry[2:])]
                heapq.heapify(self._heap)
                self._swept_at = max(_MIN_SWEEP, 2 * len(self._heap))
            heapq.heappush(self._heap, (limit_s, self._num_added, sequence, reason))
            self._num_added += 1

    def take_due(self, now_s: float) -> dict[Sequence, FinishReason]:
        """Remove and return the sequences that have timed out, the earliest first, with their finish reasons."""
        due: dict[Sequence, FinishReason] = {}
        while (next_s := self.next_s) is not None and next_s <= now_s:
            _, _, sequence, reason = heapq.heappop(self._heap)
            if due.get(sequence) is not FinishReason.QUEUE_TIMEOUT:  # which a sequence gets if both limits are over
                due[sequence] = reason
        return due

    def check(self, unfinished: abc.Iterable[Sequence]) -> None:
        """Assert that the heap has each applicable limit exactly once."""
        entries = [(id(sequence), reason) for _, _, sequence, reason in self._heap if _applies(sequence, reason)]
        limits = [(id(each), reason) for each in unfinished for _, reason in _limits(each) if _applies(each, reason)]
        assert sorted(entries) == sorted(limits)


def _limits(sequence: Sequence) -> list[tuple[float, FinishReason]]:
    request = sequence.request
    limits = ((request.deadline_s, FinishReason.TIMEOUT), (request.start_by_s, FinishReason.QUEUE_TIMEOUT))
    return [(limit_s, reason) for limit_s, reason in limits if limit_s is not None]


def _applies(sequence: Sequence, reason: FinishReason) -> bool:
    is_unfinished = sequence.status is not SequenceStatus.FINISHED
    return is_unfinished and (reason is FinishReason.TIMEOUT or sequence.num_admitted == 0)
