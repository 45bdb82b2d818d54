"""FairQueue: waiting sequences by service class; within a class, the least served tenant is first."""

from collections import Counter, abc

from engine.scheduling.fairness.account import TenantAccount
from engine.scheduling.fairness.service_queue import ClassCounts
from engine.scheduling.fairness.turns import TenantTurns
from engine.scheduling.sequence import Sequence


class FairQueue(ClassCounts):
    """The queue of waiting sequences. Each is either in line or set aside, because it is not ready or a caller set it
    aside. The cost of a step does not grow with the number of waiting sequences.

    num_tokens: tokens of the waiting sequences whose service class counts in metrics. num_to_compute: those not in the
    prefix cache when last looked up. num_changes: how often a sequence was added, removed or put back in line.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ranks: dict[int, TenantTurns] = {}
        self._unready: set[Sequence] = set()
        self._names: Counter[str] = Counter()  # tenants, by their queues with sequences that count
        self._num_waiting = 0
        self._lengths: dict[Sequence, tuple[int, int]] = {}  # as summed in num_tokens and num_to_compute
        self.num_tokens = 0
        self.num_to_compute = 0
        self.num_changes = 0

    def __len__(self) -> int:
        return self._num_waiting

    def __iter__(self) -> abc.Iterator[Sequence]:
        return (each for turns in self._ranks.values() for queue in turns.queues.values() for each in queue)

    def in_turn(self, limits: abc.Mapping[TenantAccount, int]) -> abc.Iterator[Sequence]:
        """Yield the sequences in line: lower service ranks first, and within a rank the least served tenant's first.

        limits: by tenant, the most tokens that its next sequence may have to compute. May include sequences that join
        during the iteration.
        """
        for rank in sorted(self._ranks):
            yield from self._ranks[rank].in_turn(limits)

    @property
    def first(self) -> Sequence | None:
        return next(self.in_turn({}), None)

    @property
    def first_rank(self) -> int | None:
        """Lowest service rank with sequences in line; None if the line is empty."""
        has_line = {rank: any(each.is_in_line for each in turns.queues.values()) for rank, turns in self._ranks.items()}
        return min((rank for rank in has_line if has_line[rank]), default=None)

    @property
    def has_ready(self) -> bool:
        """Whether any waiting sequence is ready: not held back by a gate, such as its grammar."""
        return len(self._unready) < self._num_waiting

    @property
    def num_tenants(self) -> int:
        """Number of tenants with waiting sequences, counting only service classes in metrics."""
        return len(self._names)

    def accounts(self, rank: int) -> abc.Collection[TenantAccount]:
        """Return the accounts of tenants with waiting sequences of this service rank."""
        return () if (turns := self._ranks.get(rank)) is None else turns.queues.keys()

    def weight(self, rank: int) -> float:
        return 0.0 if (turns := self._ranks.get(rank)) is None else turns.weight

    def add_new(self, sequence: Sequence) -> None:
        """Add a newly arrived sequence, removing the credit of its tenant's idle time."""
        self._turns(sequence).lift(sequence.account)
        self.add(sequence)

    def add(self, sequence: Sequence) -> None:
        """Add a sequence without changing its tenant's credit, as after a preemption."""
        if not sequence.is_ready:
            self._unready.add(sequence)
        queue = self._turns(sequence).add(sequence, is_aside=not sequence.is_ready)
        if sequence.service.is_counted and queue.num_counted == 1:
            self._names[sequence.account.name] += 1
        self._num_waiting += 1
        self.num_changes += 1
        self._count(sequence, 1)
        self._measure(sequence)

    def remove(self, sequence: Sequence) -> None:
        self._unready.discard(sequence)
        queue = self._turns(sequence).remove(sequence)
        if sequence.service.is_counted and queue.num_counted == 0:
            name = sequence.account.name
            self._names[name] -= 1
            if not self._names[name]:
                del self._names[name]
        self._num_waiting -= 1
        self.num_changes += 1
        self._count(sequence, -1)
        self._add_lengths(self._lengths.pop(sequence, (0, 0)), -1)

    def set_aside(self, sequence: Sequence) -> None:
        """Take a sequence out of the line; it stays in the queue."""
        if not sequence.is_ready:
            self._unready.add(sequence)
        self._turns(sequence).queues[sequence.account].set_aside(sequence)

    def put_back(self, sequence: Sequence) -> None:
        """Put a sequence back in line if it is set aside."""
        queue = self._turns(sequence).queues.get(sequence.account)
        if queue is not None and queue.is_aside(sequence):
            self._unready.discard(sequence)
            queue.put_back(sequence)
            self.num_changes += 1
            self._measure(sequence)
            self.advance(sequence)

    def is_aside(self, sequence: Sequence) -> bool:
        return self._turns(sequence).queues[sequence.account].is_aside(sequence)

    def correct_length(self, sequence: Sequence, num_to_compute: int) -> None:
        """Update how many tokens a sequence in line has to compute, after the prefix cache has changed."""
        if sequence.num_to_compute != num_to_compute:
            self._turns(sequence).queues[sequence.account].correct_length(sequence, num_to_compute)
            self._measure(sequence)

    def advance(self, sequence: Sequence) -> None:
        """Update the tenant's turn after a refund, which may move it forward."""
        self._turns(sequence).advance(sequence.account)

    def forget_tenants(self) -> None:
        """Drop all tenants' state. Only when no sequence waits: later arrivals start even."""
        assert not self._num_waiting
        self._ranks.clear()

    def _measure(self, sequence: Sequence) -> None:
        """Sum up a waiting sequence's tokens as they are now."""
        if sequence.service.is_counted:
            self._add_lengths(self._lengths.get(sequence, (0, 0)), -1)
            self._lengths[sequence] = len(sequence.tokens), sequence.num_to_compute
            self._add_lengths(self._lengths[sequence], 1)

    def _add_lengths(self, lengths: tuple[int, int], sign: int) -> None:
        self.num_tokens += sign * lengths[0]
        self.num_to_compute += sign * lengths[1]

    def _turns(self, sequence: Sequence) -> TenantTurns:
        if (turns := self._ranks.get(sequence.service.rank)) is None:
            turns = self._ranks[sequence.service.rank] = TenantTurns()
        return turns

    def check(self) -> None:
        for turns in self._ranks.values():
            turns.check()
        waiting = list(self)
        assert len(waiting) == self._num_waiting
        assert self._unready == {each for each in waiting if not each.is_ready}
        counted = [each for each in waiting if each.service.is_counted]
        assert self._lengths.keys() == set(counted)
        assert self.num_tokens == sum(len(each.tokens) for each in counted)
        assert self.num_to_compute == sum(lengths[1] for lengths in self._lengths.values())
        assert all(self._lengths[each][1] == each.num_to_compute for each in counted if each.is_ready)
        assert set(self._names) == {each.account.name for each in waiting if each.service.is_counted}
