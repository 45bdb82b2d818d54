"""StartLimits: which sequences have waited too long for their first step."""

import heapq

from engine.scheduling.sequence import Sequence, SequenceStatus

_MIN_SWEEP = 64  # entries; fewer are not worth sweeping


class StartLimits:
    """Sequences that nothing has been scheduled of, by the time at which that is given up. Others cost nothing.

    A heap. Entries of sequences that have begun or ended stay in it until they come to its top, or until it has twice
    as many entries as there were when it was swept last.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Sequence]] = []
        self._num_added = 0  # makes entries unique: sequences do not compare
        self._swept_at = _MIN_SWEEP

    @property
    def next_s(self) -> float | None:
        """The earliest time, in the clock of EngineRequest.arrival_s; None if nothing waits that has one."""
        while self._heap and not _waits(self._heap[0][2]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def add(self, sequence: Sequence) -> None:
        if (start_by_s := sequence.request.start_by_s) is None:
            return
        if len(self._heap) >= self._swept_at:
            self._heap = [entry for entry in self._heap if _waits(entry[2])]
            heapq.heapify(self._heap)
            self._swept_at = max(_MIN_SWEEP, 2 * len(self._heap))
        heapq.heappush(self._heap, (start_by_s, self._num_added, sequence))
        self._num_added += 1

    def take_due(self, now_s: float) -> list[Sequence]:
        """Remove and return the sequences whose time has come, the earliest first."""
        due = []
        while (next_s := self.next_s) is not None and next_s <= now_s:
            due.append(heapq.heappop(self._heap)[2])
        return due

    def check(self, unfinished: list[Sequence]) -> None:
        """Assert that the heap has each sequence that waits and has a limit once."""
        waiting = [id(sequence) for _, _, sequence in self._heap if _waits(sequence)]
        limited = {id(each) for each in unfinished if _waits(each) and each.request.start_by_s is not None}
        assert len(waiting) == len(limited)
        assert set(waiting) == limited


def _waits(sequence: Sequence) -> bool:
    return sequence.num_admitted == 0 and sequence.status is not SequenceStatus.FINISHED
