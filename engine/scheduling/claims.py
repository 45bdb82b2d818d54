"""Claims: which running sequences may be preempted, and for which waiting ones.

A waiting sequence that lacks a slot or blocks may preempt sequences

- of classes that yield and have a higher rank than its own;
- of its own tenant with a worse priority, under the priority policy;
- of tenants above their share of slots and blocks, if its own tenant stays within its share; the larger of the two
  fractions counts (dominant resource fairness: Ghodsi et al., NSDI 2011).

No sequence can preempt another that could preempt it in turn: ranks and priorities are strict, and a tenant keeps its
share. A sequence preempts other tenants' sequences at most once in its life. So preemptions are bounded by the number
of sequences, and a tenant's first sequences, which are within its share, always progress.
"""

from engine.config import SchedulingPolicy
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.fairness.service_rules import Yielding
from engine.scheduling.fairness.shares import TenantShares
from engine.scheduling.kv.capacity import KVCapacity
from engine.scheduling.lifecycle import Lifecycle
from engine.scheduling.sequence import Sequence
from engine.scheduling.steps.tally import PreemptionReason

Victim = tuple[Sequence, PreemptionReason]


class Claims:
    """Selects the sequences that may be preempted; the caller preempts as many as needed."""

    def __init__(self, capacity: KVCapacity, lifecycle: Lifecycle, config: SchedulerConfig) -> None:
        self._capacity = capacity
        self._lifecycle = lifecycle
        self._config = config
        self._known: dict[int, TenantShares] = {}  # by rank

    def forget_blocks(self) -> None:
        """Drop the cached block counts of sequences. Call after each step and each preemption."""
        self._known.clear()

    def check(self) -> None:
        """Assert that nothing is cached between steps: it could refer to ended sequences."""
        assert not self._known

    def make_way(self) -> None:
        """Preempt or pause sequences that yield immediately, while a sequence of a lower rank is ready."""
        running = self._lifecycle.running
        while running and running[-1].service.yields_immediately:
            first_rank = self._lifecycle.waiting.first_rank
            if first_rank is None or first_rank >= running[-1].service.rank:
                return
            if running[-1].service.yielding is Yielding.BY_PAUSING:
                self._lifecycle.pause(running[-1])
            else:
                self._lifecycle.preempt(running[-1], PreemptionReason.SERVICE_CLASS)

    def victims(self, sequence: Sequence, num_blocks: int) -> list[Victim]:
        """Return the sequences that a waiting sequence may preempt, in order; paused ones free only blocks. num_blocks:
        blocks that the waiting sequence needs."""
        running, rank = self._lifecycle.running, sequence.service.rank
        paused = [each for each in reversed(self._lifecycle.paused) if each.service.rank > rank]
        victims = [(each, PreemptionReason.SERVICE_CLASS) for each in paused]
        if running and running[-1].service.yields:
            behind = [each for each in reversed(running) if each.service.yields and each.service.rank > rank]
            victims += [(each, PreemptionReason.SERVICE_CLASS) for each in behind]
        if self._config.scheduling_policy is SchedulingPolicy.PRIORITY:
            victims += [(each, PreemptionReason.PRIORITY) for each in reversed(running) if _is_before(sequence, each)]
        has_others = running.num_of(sequence.request.service_class) > sequence.account.num_running
        if has_others and not sequence.has_claimed:
            if (shares := self._known.get(rank)) is None:
                shares = self._known[rank] = self._shares(rank)
            victims += [(each, PreemptionReason.FAIRNESS) for each in shares.victims(sequence, num_blocks)]
        return victims

    def block_victim(self) -> Sequence:
        """Return the running or paused sequence to preempt when a running one runs out of blocks.

        Normally the last in the order of service. But if that is a running sequence in whose class other tenants run
        too, the last sequence of the tenant with the most blocks per weight. Never the first in the order.
        """
        running, paused = self._lifecycle.running, self._lifecycle.paused
        last = running[-1]
        if paused and paused[-1].order > last.order:
            return paused[-1]
        if last.account.num_running == running.num_of(last.request.service_class):
            return last
        return self._shares(last.service.rank).largest(but=running[0])

    def _shares(self, rank: int) -> TenantShares:
        """Return the tenants' shares of a class, out of the slots and blocks that lower ranks leave."""
        running = [
            (each, self._capacity.blocks_used(each)) for each in self._lifecycle.running if each.service.rank <= rank
        ]
        before = [blocks for each, blocks in running if each.service.rank < rank]
        return TenantShares(
            running[len(before) :],
            self._lifecycle.waiting.accounts(rank),
            weight_waiting=self._lifecycle.waiting.weight(rank),
            num_slots=self._config.max_num_seqs - len(before),
            num_blocks=max(1, self._config.num_blocks - sum(before)),
        )


def _is_before(waiting: Sequence, running: Sequence) -> bool:
    """Whether two sequences have the same tenant and service class, and the waiting sequence has the better
    priority."""
    return waiting.account is running.account and waiting.request.priority < running.request.priority
