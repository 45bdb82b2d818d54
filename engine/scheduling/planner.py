"""StepPlanner: which tokens the next step computes. First running sequences continue, then waiting ones are admitted.

Sequences are served in one order, by service class and then by arrival or priority, and preempted from its end. The
first in the order is never preempted, and alone it always fits the pool (Scheduler.add refuses what does not), so every
step with work to do makes progress and no two sequences can preempt each other forever.
"""

from collections.abc import Callable, Iterable

from engine.scheduling.config import SchedulerConfig
from engine.scheduling.kv.manager import KVManager
from engine.scheduling.kv.prefixes import PrefixMatch
from engine.scheduling.lifecycle import Lifecycle
from engine.scheduling.plan import PlanItem, StepPlan
from engine.scheduling.sequence import Sequence, SequenceStatus
from engine.scheduling.service import Yielding
from engine.scheduling.step_budget import StepBudget


class StepPlanner:
    """Allocates what a step needs, admits and preempts."""

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

    @property
    def token_budget(self) -> int:
        """Most tokens of the next step."""
        return self._budget.tokens(sum(1 for sequence in self._lifecycle.running if sequence.num_output > 0))

    def plan(self) -> StepPlan:
        """The next step: running sequences, then waiting ones, and those that yield behind both.

        If running sequences lack blocks nothing is admitted: what preemption frees is for them.
        """
        self._preempt_yielding()
        running = self._lifecycle.running
        items: list[PlanItem] = []
        yielding = [each for each in running if each.service.yields] if running and running[-1].service.yields else []
        num_running = len(running)
        budget = self._continue_running(items, running, self.token_budget)
        if yielding:
            if len(running) == num_running:
                num_continued = len(items)
                budget = self._admit_waiting(items, budget, max_rank=yielding[0].service.rank - 1)
                num_running += len(items) - num_continued
            budget = self._continue_running(items, yielding, budget, is_yielding=True)
        if len(running) == num_running:
            self._admit_waiting(items, budget)
        return StepPlan(items)

    def _preempt_yielding(self) -> None:
        """Preempt sequences whose class yields, from the end of the order, while one of a lower rank waits for what
        they have."""
        running, waiting = self._lifecycle.running, self._lifecycle.waiting
        while running and running[-1].service.yields:
            rules = running[-1].service
            first = next((sequence for sequence in waiting if sequence.is_ready), None)
            if first is None or first.service.rank >= rules.rank:
                return
            if rules.yielding is Yielding.FOR_ROOM and self._has_room(first):
                return
            self._lifecycle.preempt(running[-1])

    def _has_room(self, sequence: Sequence) -> bool:
        return self._lifecycle.has_free_place and self._kv.can_admit(
            sequence, self._kv.match(sequence), self._num_reserved
        )

    @property
    def _num_reserved(self) -> int:
        """Blocks that running sequences still need for their prompts."""
        return sum(self._kv.num_blocks_needed(sequence) for sequence in self._lifecycle.running)

    # --- running sequences --------------------------------------------------------------------------------------------

    def _continue_running(
        self, items: list[PlanItem], sequences: Iterable[Sequence], budget: int, *, is_yielding: bool = False
    ) -> int:
        """Plan the next tokens of running sequences, in order, up to the first that yields unless `is_yielding`;
        returns what is left of the token budget."""
        for sequence in sequences:  # the last is preempted first, so the iteration skips none
            if budget == 0 or sequence.service.yields is not is_yielding:
                break
            if sequence.status is not SequenceStatus.RUNNING:  # nor does one after it
                break
            num_new = self._allocate_or_preempt(sequence, self._chunk_size(sequence, budget))
            if num_new == 0:  # it was the last in the order, and was preempted itself
                break
            items.append(self._plan_item(sequence, num_new))
            budget -= num_new
        return budget

    def _chunk_size(self, sequence: Sequence, budget: int) -> int:
        """How many of the pending tokens to compute in this step."""
        threshold = self._config.long_prefill_token_threshold
        if threshold == 0 or sequence.draft:  # only a sequence whose prompt is computed has a draft
            return min(sequence.num_pending, budget)
        return min(sequence.num_pending, budget, threshold)

    def _allocate_or_preempt(self, sequence: Sequence, num_new: int) -> int:
        """Allocate blocks for `num_new` tokens, or for as many as fit. If none fits, preempt the last sequences in the
        order until one does.

        Returns the number of tokens: 0 if `sequence` itself was preempted.
        """
        num_computed, pool = sequence.num_computed, self._kv.pool
        end = num_computed + num_new
        if self._kv.is_allocated(sequence, end):  # as in most decode steps
            return num_new
        while (num_tokens := self._kv.max_tokens_that_fit(sequence, end, num_free=pool.num_free)) == num_computed:
            victim = self._lifecycle.running[-1]
            self._lifecycle.preempt(victim)
            if victim is sequence:
                return 0
        self._kv.allocate(sequence, num_tokens)
        return num_tokens - num_computed

    def _plan_item(self, sequence: Sequence, num_new: int) -> PlanItem:
        end = sequence.num_computed + num_new
        num_draft = max(0, end - len(sequence.tokens))
        if num_draft < len(sequence.draft):
            del sequence.draft[num_draft:]  # what does not fit this step is proposed again after it
        needs_logits = end == sequence.num_with_draft and sequence.request.sampling.max_tokens > 0
        return PlanItem(sequence, num_new, num_draft, needs_logits)

    # --- waiting sequences --------------------------------------------------------------------------------------------

    def _admit_waiting(self, items: list[PlanItem], budget: int, *, max_rank: int | None = None) -> int:
        """Admit waiting sequences in order, of ranks up to `max_rank`, while budget, places and blocks allow; returns
        what is left of the budget. Those that are not ready yet are passed over."""
        lifecycle = self._lifecycle
        if not lifecycle.waiting or budget == 0 or not lifecycle.has_free_place:
            return budget
        computing = [item.sequence for item in items]
        num_reserved = self._num_reserved
        for sequence in list(lifecycle.waiting):
            if budget == 0 or not lifecycle.has_free_place:
                break
            if max_rank is not None and sequence.service.rank > max_rank:
                break
            if not sequence.is_ready:
                continue
            match = self._kv.match(sequence)
            if self._waits_for_prefix(sequence, match, computing):
                continue
            # The whole prompt must fit beside what others still need for theirs: a prompt that is begun and then
            # preempted for lack of blocks was computed for nothing.
            if not self._kv.can_admit(sequence, match, num_reserved):
                break
            self._admit(sequence, match)
            num_new = self._allocate_or_preempt(sequence, self._chunk_size(sequence, budget))
            items.append(self._plan_item(sequence, num_new))
            budget -= num_new
            num_reserved += self._kv.num_blocks_needed(sequence)
            computing.append(sequence)
        return budget

    def _waits_for_prefix(self, sequence: Sequence, match: PrefixMatch, computing: list[Sequence]) -> bool:
        """Whether one of `computing` computes the next full block of a waiting sequence in this step. Then it will also
        leave what the waiting one needs to continue where the two part.

        The wait ends when the block can be shared, or its owner has stopped: only sequences of this plan count.
        """
        for other in computing:
            if num_blocks := self._kv.num_shareable_blocks(sequence, match, other):
                self._kv.add_branch_point(other, num_blocks)
                return True
        return False

    def _admit(self, sequence: Sequence, match: PrefixMatch) -> None:
        self._lifecycle.admit(sequence, match)
        if sequence.num_cached is None:
            sequence.num_cached = sequence.num_computed
            sequence.first_scheduled_s = self._clock()
            if self._config.enable_prefix_caching and not sequence.needs_prompt_rows:
                self._lifecycle.tally.count_prefix_lookup(sequence)
