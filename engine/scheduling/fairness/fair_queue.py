"""FairQueue: waiting sequences by service class; within a class the tenant that was served least is first."""

from collections import Counter, abc

from engine.scheduling.fairness.account import TenantAccount
from engine.scheduling.fairness.service_queue import ClassCounts
from engine.scheduling.fairness.turns import TenantTurns
from engine.scheduling.sequence import Sequence


class FairQueue(ClassCounts):
    """Sequences stand in line or are set aside: sequences that are not ready, and those that callers set aside. The
    cost of a step does not grow with the number of waiting sequences."""

    def __init__(self) -> None:
        super().__init__()
        self._ranks: dict[int, TenantTurns] = {}
        self._unready: set[Sequence] = set()
        self._names: Counter[str] = Counter()  # tenants, by their queues with sequences that count
        self._num_waiting = 0

    def __len__(self) -> int:
        return self._num_waiting

    def __iter__(self) -> abc.Iterator[Sequence]:
        return (each for turns in self._ranks.values() for queue in turns.queues.values() for each in queue)

    def in_turn(self, limits: abc.Mapping[TenantAccount, int]) -> abc.Iterator[Sequence]:
        """Yield the sequences in line; see TenantTurns. Sequences that join the line meanwhile may be among them."""
        for rank in sorted(self._ranks):
            yield from self._ranks[rank].in_turn(limits)

    @property
    def first(self) -> Sequence | None:
        return next(self.in_turn({}), None)

    @property
    def first_rank(self) -> int | None:
        """The lowest rank of the service classes that have sequences in line, or None."""
        has_line = {rank: any(each.is_in_line for each in turns.queues.values()) for rank, turns in self._ranks.items()}
        return min((rank for rank in has_line if has_line[rank]), default=None)

    @property
    def has_ready(self) -> bool:
        """Whether any sequence waits for something else than a gate."""
        return len(self._unready) < self._num_waiting

    @property
    def num_tenants(self) -> int:
        """Number of tenants with waiting sequences that count in metrics."""
        return len(self._names)

    def accounts(self, rank: int) -> abc.Collection[TenantAccount]:
        """Return the accounts with waiting sequences of this rank."""
        return () if (turns := self._ranks.get(rank)) is None else turns.queues.keys()

    def weight(self, rank: int) -> float:
        return 0.0 if (turns := self._ranks.get(rank)) is None else turns.weight

    def add_new(self, sequence: Sequence) -> None:
        """Add a sequence that has just arrived."""
        self._turns(sequence).lift(sequence.account)
        self.add(sequence)

    def add(self, sequence: Sequence) -> None:
        """Add a sequence that ran before: its tenant was not idle."""
        if not sequence.is_ready:
            self._unready.add(sequence)
        queue = self._turns(sequence).add(sequence, is_aside=not sequence.is_ready)
        if sequence.service.is_counted and queue.num_counted == 1:
            self._names[sequence.account.name] += 1
        self._num_waiting += 1
        self._count(sequence, 1)

    def remove(self, sequence: Sequence) -> None:
        self._unready.discard(sequence)
        queue = self._turns(sequence).remove(sequence)
        if sequence.service.is_counted and queue.num_counted == 0:
            name = sequence.account.name
            self._names[name] -= 1
            if not self._names[name]:
                del self._names[name]
        self._num_waiting -= 1
        self._count(sequence, -1)

    def set_aside(self, sequence: Sequence) -> None:
        """Take a sequence out of the line; it still waits."""
        if not sequence.is_ready:
            self._unready.add(sequence)
        self._turns(sequence).queues[sequence.account].set_aside(sequence)

    def put_back(self, sequence: Sequence) -> None:
        """Put a sequence in line, unless it is there, or has left."""
        queue = self._turns(sequence).queues.get(sequence.account)
        if queue is not None and queue.is_aside(sequence):
            self._unready.discard(sequence)
            queue.put_back(sequence)
            self.advance(sequence)

    def is_aside(self, sequence: Sequence) -> bool:
        return self._turns(sequence).queues[sequence.account].is_aside(sequence)

    def correct_length(self, sequence: Sequence, num_to_compute: int) -> None:
        """Update the number of tokens that a sequence in line has to compute, since the cache has changed."""
        if sequence.num_to_compute != num_to_compute:
            self._turns(sequence).queues[sequence.account].correct_length(sequence, num_to_compute)

    def advance(self, sequence: Sequence) -> None:
        """Note that the turn of a sequence's tenant may come earlier: its charge was refunded."""
        self._turns(sequence).advance(sequence.account)

    def forget_tenants(self) -> None:
        """Forget all tenants, when no sequence waits: the next to arrive owe nothing."""
        assert not self._num_waiting
        self._ranks.clear()

    def _turns(self, sequence: Sequence) -> TenantTurns:
        if (turns := self._ranks.get(sequence.service.rank)) is None:
            turns = self._ranks[sequence.service.rank] = TenantTurns()
        return turns

    def check(self) -> None:
        """Assert the invariants of the turns, and that the counts are right."""
        for turns in self._ranks.values():
            turns.check()
        waiting = list(self)
        assert len(waiting) == self._num_waiting
        assert self._unready == {each for each in waiting if not each.is_ready}
        assert set(self._names) == {each.account.name for each in waiting if each.service.is_counted}
