"""AdapterWaiters: waiting sequences by adapter, including those set aside until their adapter has a slot."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from engine.protocol import AdapterRef
from engine.scheduling.fairness.fair_queue import FairQueue
from engine.scheduling.sequence import Gate, Sequence


class WaitingGroup(NamedTuple):
    """The waiting sequences of one service class that need the same adapter."""

    rank: int
    digest: bytes

    @classmethod
    def of(cls, sequence: Sequence) -> "WaitingGroup":
        return cls(sequence.service.rank, adapter_of(sequence).digest)


class AdapterWaiters:
    """Counts waiting sequences by adapter, and keeps those that are set aside for lack of a slot.

    Invariants: a sequence set aside here is set aside in the queue too; each waiting sequence with an adapter counts
    once.
    """

    def __init__(self, queue: FairQueue, clock: Callable[[], float]) -> None:
        """queue: the queue of all waiting sequences."""
        self._queue = queue
        self._clock = clock
        self._aside: dict[WaitingGroup, dict[Sequence, float]] = {}  # since when each waits, in order
        self._num_waiting: Counter[WaitingGroup] = Counter()  # in line or set aside
        self._names: Counter[str] = Counter()  # of the sequences' adapters

    @property
    def names(self) -> list[str]:
        """Names of the adapters that waiting sequences need."""
        return sorted(+self._names)

    def join(self, sequence: Sequence) -> None:
        self._count(sequence, 1)

    def leave(self, sequence: Sequence) -> None:
        self._count(sequence, -1)
        self.end_wait(sequence)

    def _count(self, sequence: Sequence, change: int) -> None:
        self._names[adapter_of(sequence).name] += change
        group = WaitingGroup.of(sequence)
        self._num_waiting[group] += change
        if not self._num_waiting[group]:
            del self._num_waiting[group]

    def set_aside(self, sequence: Sequence) -> None:
        sequence.closed_gates.add(Gate.ADAPTER)
        self._queue.set_aside(sequence)
        self._aside.setdefault(WaitingGroup.of(sequence), {})[sequence] = self._clock()

    def put_back(self, sequence: Sequence) -> None:
        self.end_wait(sequence)
        self._queue.put_back(sequence)

    def end_wait(self, sequence: Sequence) -> None:
        if Gate.ADAPTER in sequence.closed_gates:
            sequence.closed_gates.discard(Gate.ADAPTER)
            group = WaitingGroup.of(sequence)
            del self._aside[group][sequence]
            if not self._aside[group]:
                del self._aside[group]

    def groups(self) -> list[WaitingGroup]:
        """Return the groups set aside, sorted by service rank, then by waiting time, longest first."""
        return sorted(self._aside, key=lambda group: (group.rank, self.since_s(group)))

    def since_s(self, group: WaitingGroup) -> float:
        """Return when the group's longest-waiting sequence was set aside, on the clock's scale."""
        return next(iter(self._aside[group].values()))

    def members(self, group: WaitingGroup) -> list[Sequence]:
        """Return the group's sequences that are set aside, longest-waiting first."""
        return list(self._aside[group])

    def members_with(self, digest: bytes) -> list[Sequence]:
        return [each for group in self.groups() if group.digest == digest for each in self._aside[group]]

    def is_wanted(self, digest: bytes | None, before_rank: int) -> bool:
        """Whether a waiting sequence, in line or set aside, with a rank below `before_rank` needs this adapter."""
        return any(group.digest == digest and group.rank < before_rank for group in self._num_waiting)

    def check(self, waiting: Iterable[Sequence]) -> None:
        adapted = [each for each in waiting if each.request.adapter is not None]
        aside = {each for group in self._aside.values() for each in group}
        assert aside == {each for each in adapted if Gate.ADAPTER in each.closed_gates}
        assert all(self._queue.is_aside(each) for each in aside)
        assert self._num_waiting == Counter(map(WaitingGroup.of, adapted))
        assert +self._names == Counter(adapter_of(each).name for each in adapted)


def adapter_of(sequence: Sequence) -> AdapterRef:
    """Return the adapter of a sequence, which must have one."""
    assert sequence.request.adapter is not None
    return sequence.request.adapter
