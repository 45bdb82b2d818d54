"""TenantTurns: the order of tenants within a service class; the least served tenant is next."""

import heapq
from collections import abc

from engine.scheduling.fairness.account import TenantAccount
from engine.scheduling.fairness.tenant_queue import TenantQueue
from engine.scheduling.sequence import Order, Sequence

_MIN_SWEEP = 64  # entries; fewer are not worth sweeping

# Counter, order of the first sequence in line, number of the entry: the least is next. Entries never compare accounts.
_Entry = tuple[float, Order, int, TenantAccount]


class TenantTurns:
    """Orders the sequences of a service class: tenants by their counters, and each tenant's sequences by their order.

    When a tenant with nothing waiting gets a new sequence, its counter is lifted to the least served tenant with
    waiting sequences, or to the last tenant that had any (Sheng et al., algorithm 2). Otherwise an idle hour would
    entitle it to an hour of the engine for itself.

    Tenants are in a heap with lazy updates. Each tenant with a sequence in line has one valid entry, which is never
    later than its actual turn: counters only grow, and an outdated entry is corrected when it reaches the top. When a
    turn becomes earlier, `advance` adds a new entry. So the cost of a step does not grow with the number of tenants.
    """

    def __init__(self) -> None:
        self.queues: dict[TenantAccount, TenantQueue] = {}  # of tenants with waiting sequences
        self.weight = 0.0  # of all these tenants
        self._weights: dict[TenantAccount, float] = {}
        self._last_to_leave: TenantAccount | None = None
        self._heap: list[_Entry] = []
        self._valid: dict[TenantAccount, tuple[float, Order, int]] = {}  # valid entries, without their accounts
        self._held: dict[TenantAccount, None] = {}  # tenants whose entries the last `in_turn` took
        self._num_entries = 0

    def lift(self, account: TenantAccount) -> None:
        """Remove the credit of a tenant's idle time. Call before adding a new sequence."""
        if account in self.queues:
            return
        if self.queues:
            self._release_held()
            least = self._peek()
            counters = (least[0],) if least is not None else (each.counter for each in self.queues)
            account.lift(min(counters))
        elif self._last_to_leave is not None:
            account.lift(self._last_to_leave.counter)

    def add(self, sequence: Sequence, *, is_aside: bool) -> TenantQueue:
        account = sequence.account
        if (queue := self.queues.get(account)) is None:
            queue = self.queues[account] = TenantQueue()
        self.weight += account.weight - self._weights.get(account, 0.0)
        self._weights[account] = account.weight
        queue.add(sequence, is_aside=is_aside)
        self.advance(account)
        return queue

    def remove(self, sequence: Sequence) -> TenantQueue:
        account = sequence.account
        queue = self.queues[account]
        queue.remove(sequence)
        if not queue:
            del self.queues[account]
            self._valid.pop(account, None)
            self._held.pop(account, None)
            self.weight -= self._weights.pop(account)
            self._last_to_leave = account
        if not self.queues:
            self.weight = 0.0  # without the rest from rounding
        return queue

    def advance(self, account: TenantAccount) -> None:
        """Update a tenant's turn, which may have become earlier: a sequence joined, or tokens were refunded."""
        queue = self.queues.get(account)
        if account in self._held or queue is None or (first := queue.next_after()) is None:
            return
        valid = self._valid.get(account)
        if valid is not None and valid[:2] <= (account.counter, first.order):
            return
        self._num_entries += 1
        self._valid[account] = key = (account.counter, first.order, self._num_entries)
        heapq.heappush(self._heap, (*key, account))
        if len(self._heap) > _MIN_SWEEP + 2 * len(self.queues):
            self._heap = [entry for entry in self._heap if self._valid.get(entry[3]) == entry[:3]]
            heapq.heapify(self._heap)

    def in_turn(self, limits: abc.Mapping[TenantAccount, int]) -> abc.Iterator[Sequence]:
        """Yield the sequences in line, always the next of the tenant with the lowest counter; ties go by the sequences'
        order.

        Charges made during the iteration take effect immediately. limits: by tenant, the most tokens that its next
        sequence may have to compute; changes take effect immediately too.
        """
        self._release_held()
        candidates: list[tuple[float, Order, int, Sequence]] = []  # the next sequence of each tenant that had its turn
        while True:
            while candidates and candidates[0][0] < (counter := candidates[0][3].account.counter):
                heapq.heapreplace(candidates, (counter, *candidates[0][1:]))
            least = self._peek()
            if least is not None and (not candidates or least[:2] < candidates[0][:2]):
                account, order = least[3], None
                heapq.heappop(self._heap)
                del self._valid[account]
                self._held[account] = None
            elif candidates:
                _, order, _, sequence = heapq.heappop(candidates)
                yield sequence
                account = sequence.account
            else:
                return
            if (queue := self.queues.get(account)) is not None:
                following = queue.next_after(order, limits.get(account))
                if following is not None:
                    heapq.heappush(candidates, (account.counter, following.order, id(following), following))

    def _peek(self) -> _Entry | None:
        """Return the heap entry of the tenant whose turn it is, or None, discarding and correcting outdated entries."""
        while self._heap:
            counter, order, number, account = entry = self._heap[0]
            if self._valid.get(account) != entry[:3]:
                heapq.heappop(self._heap)
            elif (first := self.queues[account].next_after()) is None:
                heapq.heappop(self._heap)
                del self._valid[account]
            elif (account.counter, first.order) != (counter, order):
                self._valid[account] = key = (account.counter, first.order, number)
                heapq.heapreplace(self._heap, (*key, account))
            else:
                return entry
        return None

    def _release_held(self) -> None:
        held, self._held = self._held, {}
        for account in held:
            self.advance(account)

    def check(self) -> None:
        """Assert that each tenant in line has a heap entry that is not later than its turn."""
        self._release_held()
        assert sorted(self._valid.values()) == sorted(
            each[:3] for each in self._heap if self._valid.get(each[3]) == each[:3]
        )
        for account, queue in self.queues.items():
            assert len(queue)
            queue.check()
            if (first := queue.next_after()) is not None:
                assert self._valid[account][:2] <= (account.counter, first.order)
        assert set(self._valid) <= set(self.queues) == set(self._weights)
