"""Deadlines: which sequences have run out of time, found without looking at the others."""

import heapq

from engine.scheduling.sequence import Sequence, SequenceStatus

_MIN_SWEEP = 64  # entries; fewer are not worth sweeping


class Deadlines:
    """Unfinished sequences by deadline, waiting and running alike. Those without a deadline cost nothing.

    A heap, of which an entry leaves when it is due. What finishes earlier stays in it until it is half of the heap,
    and all such entries are swept out together: so each costs a logarithm once, and memory stays in proportion.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Sequence]] = []
        self._num_added = 0  # makes entries unique: sequences do not compare
        self._num_finished = 0  # of those in the heap

    def __len__(self) -> int:
        """Unfinished sequences with a deadline."""
        return len(self._heap) - self._num_finished

    @property
    def next_s(self) -> float | None:
        """The earliest deadline, in the clock of EngineRequest.arrival_s; None if nothing has one."""
        while self._heap and self._heap[0][2].status is SequenceStatus.FINISHED:
            heapq.heappop(self._heap)
            self._num_finished -= 1
        return self._heap[0][0] if self._heap else None

    def add(self, sequence: Sequence) -> None:
        if (deadline_s := sequence.request.deadline_s) is None:
            return
        heapq.heappush(self._heap, (deadline_s, self._num_added, sequence))
        self._num_added += 1

    def take_due(self, now_s: float) -> list[Sequence]:
        """Remove and return the sequences whose deadline has come, the earliest first."""
        due = []
        while (next_s := self.next_s) is not None and next_s <= now_s:
            due.append(heapq.heappop(self._heap)[2])
        return due

    def forget(self, sequence: Sequence) -> None:
        """Take note that a sequence has finished which `take_due` has not returned."""
        if sequence.request.deadline_s is None:
            return
        self._num_finished += 1
        if len(self._heap) >= _MIN_SWEEP and 2 * self._num_finished > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].status is not SequenceStatus.FINISHED]
            heapq.heapify(self._heap)
            self._num_finished = 0

    def check(self, unfinished: list[Sequence]) -> None:
        """Assert that the heap has each unfinished sequence with a deadline once, and no more finished ones than it
        counts."""
        entries = [sequence for _, _, sequence in self._heap]
        alive = {id(sequence) for sequence in entries if sequence.status is not SequenceStatus.FINISHED}
        assert alive == {id(sequence) for sequence in unfinished if sequence.request.deadline_s is not None}
        assert len(entries) - len(alive) == self._num_finished
