"""FairQueue: waiting sequences, by service class, and within a class the tenant first that was served least."""

import heapq
from collections import abc

from engine.scheduling.queue import ClassCounts, ServiceQueue
from engine.scheduling.sequence import Sequence
from engine.scheduling.tenant_account import TenantAccount


class FairQueue(ClassCounts):
    """Each tenant's sequences are in their order; which tenant is next follows from the counters.

    A tenant that had nothing waiting is lifted to the least served of those that have, or else to the last that had
    (Sheng et al., algorithm 2). Otherwise it could be idle for an hour and then have an hour for itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ranks: dict[int, dict[TenantAccount, ServiceQueue]] = {}  # of accounts with waiting sequences
        self._last_to_leave: dict[int, TenantAccount] = {}  # by rank
        self._num_waiting = 0

    def __len__(self) -> int:
        return self._num_waiting

    def __iter__(self) -> abc.Iterator[Sequence]:
        """The sequences that wait now. What a tenant is charged meanwhile counts at once, for its next one."""
        for rank in sorted(self._ranks):
            yield from _fair_order([list(queue) for queue in self._ranks[rank].values()])

    @property
    def first(self) -> Sequence | None:
        return next(iter(self), None)

    @property
    def has_ready(self) -> bool:
        return any(each.is_ready for accounts in self._ranks.values() for queue in accounts.values() for each in queue)

    @property
    def num_tenants(self) -> int:
        """With waiting sequences that count in metrics."""
        return len(
            {
                account.name
                for accounts in self._ranks.values()
                for account, queue in accounts.items()
                if queue.num_counted
            }
        )

    def accounts(self, rank: int) -> abc.Collection[TenantAccount]:
        """With waiting sequences of this rank."""
        return self._ranks.get(rank, {}).keys()

    def add_new(self, sequence: Sequence) -> None:
        """Add a sequence that has just come."""
        rank, account = sequence.service.rank, sequence.account
        if account not in (waiting := self._ranks.get(rank, {})):
            if waiting:
                account.lift(min(each.counter for each in waiting))
            elif rank in self._last_to_leave:
                account.lift(self._last_to_leave[rank].counter)
        self.add(sequence)

    def add(self, sequence: Sequence) -> None:
        """Add a sequence that ran before: its tenant was not idle."""
        waiting = self._ranks.setdefault(sequence.service.rank, {})
        if (queue := waiting.get(sequence.account)) is None:
            queue = waiting[sequence.account] = ServiceQueue()
        queue.add(sequence)
        self._num_waiting += 1
        self._count(sequence, 1)

    def remove(self, sequence: Sequence) -> None:
        rank, account = sequence.service.rank, sequence.account
        waiting = self._ranks[rank]
        waiting[account].remove(sequence)
        if not waiting[account]:
            del waiting[account]
            self._last_to_leave[rank] = account
        if not waiting:
            del self._ranks[rank]
        self._num_waiting -= 1
        self._count(sequence, -1)

    def forget_tenants(self) -> None:
        """There is no sequence any more: who comes next owes nothing."""
        assert not self._ranks
        self._last_to_leave.clear()


def _fair_order(queues: list[list[Sequence]]) -> abc.Iterator[Sequence]:
    """One tenant's sequences after another's, by counter; equals by their order."""
    if len(queues) == 1:
        yield from queues[0]
        return
    heads = [(queue[0].account.counter, queue[0].order, 0, queue) for queue in queues]
    heapq.heapify(heads)
    while heads:
        _, _, index, queue = heads[0]
        yield queue[index]
        index += 1
        if index == len(queue):
            heapq.heappop(heads)
        else:  # with its counter of now
            heapq.heapreplace(heads, (queue[index].account.counter, queue[index].order, index, queue))
