"""The order of service of running sequences: the first is scheduled first, the last is preempted first."""

from bisect import bisect_left, bisect_right, insort
from collections import abc

from engine.config import SchedulingPolicy
from engine.protocol import ServiceClass
from engine.scheduling.sequence import Order, Sequence


def service_order(policy: SchedulingPolicy, sequence: Sequence, number: int) -> Order:
    """Return the sort key that a sequence keeps for life. number: counts arrivals in the engine, so keys are unique.

    A preempted sequence keeps its key, and so comes before all sequences of its tenant that arrived later.
    """
    rank, request = sequence.service.rank, sequence.request
    if policy is SchedulingPolicy.PRIORITY:
        return (rank, request.priority, request.arrival_s, number, 0)
    return (rank, 0, 0.0, number, 0)


class ClassCounts:
    """Counts of a queue's sequences by service class."""

    def __init__(self) -> None:
        self._num_by_class = dict.fromkeys(ServiceClass, 0)
        self.num_counted = 0  # sequences whose service class counts in metrics

    def num_of(self, service_class: ServiceClass) -> int:
        return self._num_by_class[service_class]

    def _count(self, sequence: Sequence, change: int) -> None:
        self._num_by_class[sequence.request.service_class] += change
        if sequence.service.is_counted:
            self.num_counted += change


class ServiceQueue(ClassCounts):
    """Sequences sorted by `order`. Unlike a heap, iterates in order and removes from the middle. Inserting and removing
    take a binary search and a memmove: a microsecond at a thousand sequences."""

    def __init__(self) -> None:
        super().__init__()
        self._entries: list[Sequence] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> abc.Iterator[Sequence]:
        return iter(self._entries)

    def __getitem__(self, index: int) -> Sequence:
        return self._entries[index]

    def after(self, order: Order | None) -> abc.Iterator[Sequence]:
        """Yield the sequences whose key is greater than `order`; None yields all."""
        begin = 0 if order is None else bisect_right(self._entries, order, key=_order)
        return (self._entries[index] for index in range(begin, len(self._entries)))

    def add(self, sequence: Sequence) -> None:
        insort(self._entries, sequence, key=_order)
        self._count(sequence, 1)

    def remove(self, sequence: Sequence) -> None:
        index = bisect_left(self._entries, sequence.order, key=_order)
        assert self._entries[index] is sequence
        del self._entries[index]
        self._count(sequence, -1)


def _order(sequence: Sequence) -> Order:
    return sequence.order
