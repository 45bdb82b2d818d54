"""StepPlanner: decides which sequences to admit, and which tokens of running sequences the next step computes.

Running sequences have one order, by service class and then by arrival or priority. The first in the order gets a token
of every step and is never preempted for blocks, and alone it always fits the pool (Scheduler.add refuses sequences that
do not). So every step with work to do makes progress. The first is displaced only by a sequence that comes before it in
the order, and these are finitely many; so all sequences end, whatever claims (claims.py) do to the others.
"""

from collections import abc
from collections.abc import Callable

from engine.protocol import ServiceClass
from engine.scheduling.admission import AdmissionRound
from engine.scheduling.claims import Claims
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.fairness.tenants import charge_prompt
from engine.scheduling.kv.manager import KVManager
from engine.scheduling.kv.prefixes import PrefixMatch
from engine.scheduling.lifecycle import Lifecycle
from engine.scheduling.pauses import Pauses
from engine.scheduling.plan import PlanItem, StepPlan
from engine.scheduling.prefix_waits import PrefixWaits
from engine.scheduling.sequence import Sequence, SequenceStatus
from engine.scheduling.steps.budget import StepBudget
from engine.scheduling.steps.split import Demand, StepSplit
from engine.scheduling.steps.tally import PreemptionReason

_MOST_AHEAD = 8  # steps planned ahead in turn while a sequence waits for blocks or a slot


class StepPlanner:
    """Plans each step: allocates KV blocks, admits waiting sequences and preempts running ones."""

    def __init__(
        self,
        config: SchedulerConfig,
        kv: KVManager,
        lifecycle: Lifecycle,
        *,
        budget: StepBudget,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._kv = kv
        self._lifecycle = lifecycle
        self._budget = budget
        self._clock = clock
        self._pauses = Pauses(kv, lifecycle)
        self._prefix_waits = PrefixWaits(lifecycle.waiting, config.prefix_unit, num_uncached=kv.num_uncached)
        self._claims = Claims(kv.capacity, lifecycle, config)
        self._num_ahead = 0  # steps planned ahead since the last full plan
        self._queues: tuple[int, int] = (0, 0)  # after that plan: see _queues_now

    @property
    def token_budget(self) -> int:
        """Maximum number of tokens in the next step."""
        return self._budget.tokens(self._num_generating, is_batch=self._is_batch_step)

    @property
    def has_prefix_waits(self) -> bool:
        """Whether a waiting sequence is set aside until another has computed their shared prefix."""
        return bool(self._prefix_waits.branch_points)

    @property
    def _is_batch_step(self) -> bool:
        """Whether the next step will have only sequences of batch jobs."""
        running, waiting = self._lifecycle.running, self._lifecycle.waiting
        if running:
            return running[0].service.fills_idle_steps
        first = waiting.first
        return bool(self._lifecycle.paused) if first is None else first.service.fills_idle_steps

    @property
    def _has_candidates(self) -> bool:
        """Whether the next step could admit any waiting sequence. Batch jobs' sequences cannot join a step of clients'
        sequences, and looking at them in every such step would slow it by a percent."""
        running, waiting = self._lifecycle.running, self._lifecycle.waiting
        if running and not running[0].service.fills_idle_steps:
            return len(waiting) > waiting.num_of(ServiceClass.BATCH)
        return bool(waiting)

    @property
    def _num_generating(self) -> int:
        running = self._lifecycle.running
        generating = [
            each for each in running if each.has_output and each.num_computed >= each.num_computed_at_preemption
        ]
        return len(generating)

    def plan(self) -> StepPlan:
        """Plan the next step: first running sequences that get all tokens they want, then newly admitted sequences,
        then running sequences that get only a part.

        If a running sequence was preempted for blocks, nothing is admitted. Tokens that the admitted sequences do not
        use go to the sequences that get only a part.
        """
        lifecycle = self._lifecycle
        self._claims.make_way()
        self._pauses.resume()
        if lifecycle.adapters is not None:
            for victim in lifecycle.adapters.begin_step():
                lifecycle.preempt(victim, PreemptionReason.SERVICE_CLASS)
        num_generating = self._num_generating
        is_batch = self._is_batch_step
        token_budget = self._budget.tokens(num_generating, is_batch=is_batch)
        left: float = token_budget
        threshold = self._config.long_prefill_token_threshold
        costs = self._budget.costs(num_generating, is_batch=is_batch)
        split = StepSplit(lifecycle.running, token_budget, threshold=threshold, cost=costs)
        chosen: list[Sequence] = []
        if self._has_candidates:
            self._prefix_waits.begin_step(split.tokens())
            chosen = AdmissionRound(self._kv, lifecycle, self._claims, self._prefix_waits, split).choose()
            self._claims.forget_blocks()
            if not lifecycle.running and not chosen and self._pauses.resume():
                return self.plan()  # the client that came must wait for its adapter
        tokens = split.tokens()
        running = [demand for demand in split.demands if demand.sequence.status is SequenceStatus.RUNNING]
        newcomers = [demand for demand in split.demands if demand.sequence.status is SequenceStatus.WAITING]
        items: list[PlanItem] = []
        num_running = len(running)
        for sequence, num_wanted, _, cost, context_cost in running:
            if tokens[sequence] == num_wanted and (num_new := self._continue(items, sequence, num_wanted)):
                left -= num_new * cost + context_cost
        in_part = [demand for demand in running if tokens[demand.sequence] < demand.num_tokens]
        left -= sum(demand.price(tokens[demand.sequence]) for demand in in_part)
        if len(lifecycle.running) == num_running:
            left -= self._admit(items, chosen, {each.sequence: (tokens[each.sequence], each) for each in newcomers})
        for demand in in_part:
            num_before = tokens[demand.sequence]
            num_tokens = num_before + demand.num_affordable(num_before, left)
            left -= demand.price(num_tokens) - demand.price(num_before)
            self._continue(items, demand.sequence, num_tokens)
        # A sequence that has lost its blocks to another in this step is not computed.
        items = [item for item in items if item.sequence.status is SequenceStatus.RUNNING]
        if lifecycle.adapters is not None:
            items.sort(key=lambda item: item.sequence.adapter_slot)  # rows of one adapter are neighbors
        plan = StepPlan(items, self._kv.take_moves(), self._kv.tails.take())
        lifecycle.tenants.count_step(plan, split.demands)
        self._num_ahead, self._queues = 0, self._queues_now
        return plan

    # --- steps planned ahead ------------------------------------------------------------------------------------------

    def plan_ahead(self, launched: StepPlan) -> StepPlan | None:
        """Plan the step after a launched one: see Scheduler.schedule_ahead.

        Only if nothing else can happen in it: every running sequence generates, there are blocks for all of them, and
        no waiting sequence could come in.
        """
        lifecycle, kv = self._lifecycle, self._kv
        if not kv.can_plan_ahead or self._may_admit(launched):
            return None
        num_running, items, rows = 0, [], []
        for row, (sequence, start, num_new, num_draft, needs_logits) in enumerate(launched.items):
            if sequence.status is SequenceStatus.FINISHED:
                continue
            if num_draft or not needs_logits or sequence.grammar is not None:
                return None
            num_running += 1
            end = start + num_new
            if end + 1 - sequence.num_prompt < sequence.request.sampling.max_tokens:
                items.append(PlanItem(sequence, end, 1, 0, needs_logits))
                rows.append(row)
        if not items or num_running < len(lifecycle.running) or len(items) > self.token_budget:
            return None
        if not self._allocate_ahead(items):
            return None
        for sequence, start, *_ in items:
            sequence.num_ahead = start + 1
        self._num_ahead += 1
        plan = StepPlan(items, kv.take_moves(), token_rows=rows)
        lifecycle.tenants.count_step(plan, ())
        return plan

    def _may_admit(self, launched: StepPlan) -> bool:
        """Whether the step after a launched one could admit a waiting sequence.

        It could not if the last full plan did not, and nothing has changed since: no sequence has come, ended or become
        ready, and no prompt was computed. The little that may change anyway, such as tenants' shares, waits for the
        next full plan.
        """
        if not self._has_candidates:
            return False
        if (reads := self._kv.tier_reads) is not None and reads.has_result:
            return True
        has_prompt = any(item.is_prompt for item in launched.items)
        return has_prompt or self._queues_now != self._queues or self._num_ahead >= _MOST_AHEAD

    @property
    def _queues_now(self) -> tuple[int, int]:
        """Number of changes of the waiting sequences, and number of running ones."""
        return self._lifecycle.waiting.num_changes, len(self._lifecycle.running)

    def _allocate_ahead(self, items: list[PlanItem]) -> bool:
        """Allocate blocks for items, if there are enough without taking any from a running or paused sequence."""
        kv, pool = self._kv, self._kv.pool
        # Each item has one token, which begins a block or lies in that of the token before it.
        size = kv.smallest_step
        lacking = [each for each in items if not each.start % size and not kv.is_allocated(each.sequence, each.end)]
        if not lacking:  # as in most steps
            return True
        num_free = pool.num_free - pool.num_protected(is_evicted_first=items[0].sequence.service.is_evicted_first)
        if self._lifecycle.paused:
            num_free = min(num_free, pool.num_unprotected)  # else Pauses would spare cached prefixes
        if sum(kv.num_new_blocks(item.sequence, item.end) for item in lacking) > num_free:
            return False
        for item in lacking:
            kv.allocate(item.sequence, item.end)
        return True

    # --- running sequences --------------------------------------------------------------------------------------------

    def _continue(self, items: list[PlanItem], sequence: Sequence, num_new: int) -> int:
        """Plan the next tokens of a running sequence, unless it has been preempted; return their number."""
        if num_new == 0 or sequence.status is not SequenceStatus.RUNNING:
            return 0
        num_new = self._allocate_or_preempt(sequence, num_new)
        if num_new:
            items.append(self._plan_item(sequence, num_new))
        return num_new

    def _allocate_or_preempt(self, sequence: Sequence, num_new: int) -> int:
        """Allocate blocks for `num_new` tokens, or for as many tokens as fit. If not even one fits, preempt other
        sequences until one does.

        Return the number of tokens: 0 if `sequence` itself was preempted.
        """
        num_computed, pool = sequence.num_computed, self._kv.pool
        end = num_computed + num_new
        if self._kv.is_allocated(sequence, end):  # as in most decode steps
            return num_new
        self._pauses.spare_prefixes(sequence, end)
        while True:
            is_first = self._lifecycle.running[0] is sequence  # it may take all blocks
            is_evicted_first = sequence.service.is_evicted_first and not is_first
            num_free = pool.num_free - pool.num_protected(is_evicted_first=is_evicted_first)
            num_tokens = self._kv.max_tokens_that_fit(sequence, end, num_free=num_free)
            if num_tokens > num_computed:
                break
            victim = self._claims.block_victim()
            self._lifecycle.preempt(victim, PreemptionReason.MEMORY)
            if victim is sequence:
                return 0
        self._kv.allocate(sequence, num_tokens)
        return num_tokens - num_computed

    def _plan_item(self, sequence: Sequence, num_new: int) -> PlanItem:
        start = sequence.num_computed
        end = start + num_new
        num_draft = max(0, end - len(sequence.tokens))
        if num_draft < len(sequence.draft):
            del sequence.draft[num_draft:]  # the rest, which does not fit this step, is proposed again
        needs_logits = end == sequence.num_with_draft and sequence.request.sampling.max_tokens > 0
        return PlanItem(sequence, start, num_new, num_draft, needs_logits)

    def forget(self, sequence: Sequence) -> None:
        self._prefix_waits.forget(sequence)

    def check(self) -> None:
        """Assert the invariants of PrefixWaits, Claims and Pauses."""
        self._prefix_waits.check(self._lifecycle.waiting)
        self._claims.check()
        self._pauses.check()

    # --- newcomers ----------------------------------------------------------------------------------------------------

    def _admit(
        self, items: list[PlanItem], chosen: list[Sequence], tokens: dict[Sequence, tuple[int, Demand]]
    ) -> float:
        """Admit the chosen sequences in order, until one no longer fits; return the cost of their tokens.

        tokens: the number of tokens and the demand of each chosen sequence.
        """
        spent = 0.0
        capacity, lifecycle = self._kv.capacity, self._lifecycle
        num_reserved = sum(capacity.blocks_needed(sequence) for sequence in lifecycle.running) if chosen else 0
        for sequence in chosen:
            match, num_protected = self._kv.match(sequence), 0
            if lifecycle.running:  # else it may take all blocks
                is_evicted_first = sequence.service.is_evicted_first
                num_protected = self._kv.pool.num_protected(is_evicted_first=is_evicted_first)
            if not lifecycle.num_free_slots or not capacity.can_admit(sequence, match, num_reserved + num_protected):
                break
            num_tokens, demand = tokens[sequence]
            self._begin(sequence, match, has_tokens=num_tokens > 0)
            spent += demand.price(self._continue(items, sequence, min(num_tokens, sequence.num_pending)))
            num_reserved += capacity.blocks_needed(sequence)
        for sequence, num_units in self._prefix_waits.branch_points:
            if sequence.status is SequenceStatus.RUNNING:
                self._kv.add_branch_point(sequence, num_units)
        return spent

    def _begin(self, sequence: Sequence, match: PrefixMatch, *, has_tokens: bool) -> None:
        self._lifecycle.admit(sequence, match)
        if has_tokens:
            self._kv.tails.restore(sequence, match)
        if sequence.num_cached is not None:
            return
        charge_prompt(sequence, max(0, sequence.num_prompt - sequence.num_computed))
        sequence.num_cached = sequence.num_computed
        sequence.first_scheduled_s = self._clock()
        # A sequence that continues another is a part of the same request.
        if self._config.enable_prefix_caching and not sequence.needs_prompt_rows and sequence.continues is None:
            num_restored = sum(block.group == 0 for block in match.restored) * self._config.kv_groups[0].block_size
            self._lifecycle.tally.count_prefix_lookup(sequence, num_restored)


def grant_drafts(kv: KVManager, lifecycle: Lifecycle, requested: abc.Iterable[tuple[Sequence, int]]) -> list[int]:
    """Return how many draft tokens each of these sequences may have, at most the number requested.

    Grants as many tokens as there are free blocks for, and allocates them; `Scheduler.set_draft` frees those that a
    draft does not use. Blocks that other sequences need for known tokens are reserved first, and no sequence is
    preempted for a draft.
    """
    num_free = _num_unreserved_blocks(kv, lifecycle)
    granted = []
    for sequence, num_tokens in requested:
        assert sequence.status is SequenceStatus.RUNNING
        assert sequence.num_pending == 1
        assert num_tokens < sequence.num_remaining, "verification always brings one token more"
        num_known, num_own = len(sequence.tokens), kv.capacity.blocks_needed(sequence)
        num_fitting = kv.max_tokens_that_fit(sequence, num_known + num_tokens, num_free=num_free + num_own)
        if num_fitting > num_known:
            num_free += num_own - kv.allocate_blocks(sequence, num_fitting)
        granted.append(max(0, num_fitting - num_known))
    return granted


def _num_unreserved_blocks(kv: KVManager, lifecycle: Lifecycle) -> int:
    """Return how many free blocks neither running sequences nor the next sequence to admit needs for known tokens."""
    num_reserved = sum(kv.capacity.blocks_needed(sequence) for sequence in lifecycle.running)
    num_free = kv.pool.num_free - num_reserved
    if not lifecycle.num_free_slots or (next_to_admit := lifecycle.waiting.first) is None:
        return num_free
    blocks_free_after = kv.capacity.blocks_free_after(next_to_admit, kv.match(next_to_admit), num_reserved)
    # A sequence that cannot be admitted anyway needs nothing.
    return blocks_free_after if blocks_free_after >= 0 else num_free
