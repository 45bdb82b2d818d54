"""Order of service: who is scheduled first, and so also who is preempted first (the last in that order)."""

import math
from bisect import bisect_left, insort
from collections.abc import Iterator

from engine.config import SchedulingPolicy
from engine.scheduling.sequence import Sequence


def service_order(policy: SchedulingPolicy, sequence: Sequence, number: int) -> tuple[float, float, int]:
    """The key that a sequence keeps for life. `number` counts intakes and makes keys unique.

    A preempted sequence goes back to the place that its key gives it, before everything that came later. A replay, for
    which nobody waits, comes after all others.
    """
    if sequence.request.is_replay:
        return (math.inf, 0.0, number)
    if policy is SchedulingPolicy.PRIORITY:
        return (sequence.request.priority, sequence.request.arrival_s, number)
    return (0, 0.0, number)


class ServiceQueue:
    """Sequences sorted by `order`. Inserting and removing cost a binary search and a memmove: at a thousand waiting
    requests that is a microsecond, and unlike a heap it iterates in order and removes from the middle."""

    def __init__(self) -> None:
        self._entries: list[Sequence] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._entries)

    def __getitem__(self, index: int) -> Sequence:
        return self._entries[index]

    def add(self, sequence: Sequence) -> None:
        insort(self._entries, sequence, key=_order)

    def remove(self, sequence: Sequence) -> None:
        index = bisect_left(self._entries, sequence.order, key=_order)
        assert self._entries[index] is sequence
        del self._entries[index]


def _order(sequence: Sequence) -> tuple[float, float, int]:
    return sequence.order
