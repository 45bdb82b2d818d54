"""TimeLimits: sequences whose time is over, found without looking at the others."""

import heapq
from collections import abc

from engine.scheduling.sequence import Sequence, SequenceStatus

_MIN_SWEEP = 64  # entries; fewer are not worth sweeping


class TimeLimits:
    """Sequences by the time at which they are given up. Sequences without a limit cost nothing.

    An entry leaves the heap when it is due. Entries of sequences whose limit no longer holds stay until they come to
    its top, or until it has twice as many entries as after the last sweep: so each costs a logarithm once, and memory
    stays in proportion.
    """

    def __init__(
        self, limit_s: abc.Callable[[Sequence], float | None], applies: abc.Callable[[Sequence], bool]
    ) -> None:
        """limit_s: the limit of a sequence, in the clock of EngineRequest.arrival_s. applies: whether the limit still
        applies; once it does not, it never will again."""
        self._limit_s = limit_s
        self._applies = applies
        self._heap: list[tuple[float, int, Sequence]] = []
        self._num_added = 0  # makes entries unique: sequences do not compare
        self._swept_at = _MIN_SWEEP

    @classmethod
    def deadlines(cls) -> "TimeLimits":
        """Return the limits of requests' deadlines, which apply whether they wait or run."""
        return cls(lambda each: each.request.deadline_s, lambda each: each.status is not SequenceStatus.FINISHED)

    @classmethod
    def start_limits(cls) -> "TimeLimits":
        """Return the limits of the time in the queue: a started sequence continues, even if it is preempted."""
        return cls(
            lambda each: each.request.start_by_s,
            lambda each: each.num_admitted == 0 and each.status is not SequenceStatus.FINISHED,
        )

    @property
    def next_s(self) -> float | None:
        """The earliest limit that applies, or None."""
        while self._heap and not self._applies(self._heap[0][2]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def add(self, sequence: Sequence) -> None:
        if (limit_s := self._limit_s(sequence)) is None:
            return
        if len(self._heap) >= self._swept_at:
            self._heap = [entry for entry in self._heap if self._applies(entry[2])]
            heapq.heapify(self._heap)
            self._swept_at = max(_MIN_SWEEP, 2 * len(self._heap))
        heapq.heappush(self._heap, (limit_s, self._num_added, sequence))
        self._num_added += 1

    def take_due(self, now_s: float) -> list[Sequence]:
        """Remove and return the sequences whose time has come, the earliest first."""
        due = []
        while (next_s := self.next_s) is not None and next_s <= now_s:
            due.append(heapq.heappop(self._heap)[2])
        return due

    def check(self, unfinished: abc.Iterable[Sequence]) -> None:
        """Assert that the heap has each sequence once to which a limit applies."""
        entries = [id(sequence) for _, _, sequence in self._heap if self._applies(sequence)]
        limited = {id(each) for each in unfinished if self._applies(each) and self._limit_s(each) is not None}
        assert len(entries) == len(limited)
        assert set(entries) == limited
