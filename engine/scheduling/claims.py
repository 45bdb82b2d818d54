"""Claims: which running sequences give up their room, and for whom.

A waiting sequence that finds no place, or too few blocks, may take those of

- classes that yield, if its own has a lower rank;
- its own tenant's sequences of a worse priority, under that policy;
- tenants that use more than their share of places or blocks, if its own uses less; the larger of the two parts counts
  (dominant resource fairness: Ghodsi et al., NSDI 2011).

Nobody takes room from one that could take it back: ranks and priorities are strict, and a tenant keeps its share. A
sequence takes other tenants' room once in its life. So preemptions are bounded by the number of sequences, and a
tenant's first ones, which are within its share, get on in any case.
"""

from engine.config import SchedulingPolicy
from engine.scheduling.fairness.service_rules import Yielding
from engine.scheduling.fairness.shares import TenantShares
from engine.scheduling.kv.room import KVRoom
from engine.scheduling.lifecycle import Lifecycle
from engine.scheduling.sequence import Sequence
from engine.scheduling.steps.tally import PreemptionReason

Victim = tuple[Sequence, PreemptionReason]


class Claims:
    """Names victims; who needs the room preempts as many of them as it needs."""

    def __init__(
        self, room: KVRoom, lifecycle: Lifecycle, *, policy: SchedulingPolicy, max_num_seqs: int, num_blocks: int
    ) -> None:
        self._room = room
        self._lifecycle = lifecycle
        self._policy = policy
        self._max_num_seqs = max_num_seqs
        self._num_blocks = num_blocks
        self._known: dict[int, TenantShares] = {}  # by rank

    def forget_blocks(self) -> None:
        """Forget the blocks that sequences use: they are counted once a step for all that ask, and again when room was
        taken."""
        self._known.clear()

    def check(self) -> None:
        """Assert that between steps no sequences are kept, which may have ended."""
        assert not self._known

    def yield_at_once(self) -> None:
        """Preempt or pause sequences of classes that yield at once, while one of a lower rank is ready to run."""
        running = self._lifecycle.running
        while running and running[-1].service.yields_at_once:
            first_rank = self._lifecycle.waiting.first_rank
            if first_rank is None or first_rank >= running[-1].service.rank:
                return
            if running[-1].service.yielding is Yielding.BY_PAUSING:
                self._lifecycle.pause(running[-1])
            else:
                self._lifecycle.preempt(running[-1], PreemptionReason.SERVICE_CLASS)

    def victims(self, sequence: Sequence, num_blocks: int) -> list[Victim]:
        """Whose room a waiting sequence may take, in the order in which they lose it; paused ones have blocks alone.
        num_blocks: that it needs."""
        running, rank = self._lifecycle.running, sequence.service.rank
        paused = [each for each in reversed(self._lifecycle.paused) if each.service.rank > rank]
        victims = [(each, PreemptionReason.SERVICE_CLASS) for each in paused]
        if running and running[-1].service.yields:
            behind = [each for each in reversed(running) if each.service.yields and each.service.rank > rank]
            victims += [(each, PreemptionReason.SERVICE_CLASS) for each in behind]
        if self._policy is SchedulingPolicy.PRIORITY:
            victims += [(each, PreemptionReason.PRIORITY) for each in reversed(running) if _is_before(sequence, each)]
        has_others = running.num_of(sequence.request.service_class) > sequence.account.num_running
        if has_others and not sequence.has_claimed:
            if (shares := self._known.get(rank)) is None:
                shares = self._known[rank] = self._shares(rank)
            victims += [(each, PreemptionReason.FAIRNESS) for each in shares.victims(sequence, num_blocks)]
        return victims

    def next_to_free_blocks(self) -> Sequence:
        """Which running or paused sequence loses its blocks when a running one before it needs some: the last in the
        order, or, where it runs and shares its class with other tenants, the last of the tenant that has most blocks
        for its weight.

        It is never the first in the order.
        """
        running, paused = self._lifecycle.running, self._lifecycle.paused
        last = running[-1]
        if paused and paused[-1].order > last.order:
            return paused[-1]
        if last.account.num_running == running.num_of(last.request.service_class):
            return last
        return self._shares(last.service.rank).largest(but=running[0])

    def _shares(self, rank: int) -> TenantShares:
        """Of one service class. Those of lower ranks have their places and blocks before."""
        running = [(each, self._room.num_used(each)) for each in self._lifecycle.running if each.service.rank <= rank]
        before = [blocks for each, blocks in running if each.service.rank < rank]
        return TenantShares(
            running[len(before) :],
            self._lifecycle.waiting.accounts(rank),
            weight_waiting=self._lifecycle.waiting.weight(rank),
            num_places=self._max_num_seqs - len(before),
            num_blocks=max(1, self._num_blocks - sum(before)),
        )


def _is_before(waiting: Sequence, running: Sequence) -> bool:
    """Whether both are of one tenant and class, and the waiting one has the better priority."""
    return waiting.account is running.account and waiting.request.priority < running.request.priority
