"""RunScheduler: the engine's scheduler, with runs of decode steps that are played at once."""

from engine.config import SchedulingPolicy
from engine.scheduling.kv.groups import KVGroup
from engine.scheduling.plan import PlanItem, StepPlan
from engine.scheduling.scheduler import Scheduler
from engine.scheduling.sequence import Sequence

_UPDATE, _PLAN = 0, 1  # the parts of a step, in order: the update after one, and the plan of the next


class RunScheduler(Scheduler):
    """A scheduler that can play a run of decode steps at once: each sequence gets a token of every step, and none ends
    or joins.

    Only a simulator can play runs, since it knows the tokens beforehand. A run leaves exactly the state that its steps
    would leave one by one: blocks are allocated and registered in the same order, and all else only counts up. Requests
    must have no time limits, and none may be aborted within a run.
    """

    def longest_run(self, plan: StepPlan) -> int:
        """Return how many steps from `plan`, the last one, on are alike: if nothing comes and no token stops a
        sequence, none reaches its max_tokens in them, none can be admitted after them, and there are blocks for the
        step that follows. 0 if the plan begins no run."""
        items, lifecycle = plan.items, self._lifecycle
        if plan.moves is not None or plan.copies or len(items) != len(lifecycle.running):
            return 0
        if lifecycle.paused or lifecycle.adapters is not None or self._kv.tier_reads is not None:
            return 0
        if any(group.is_state for group in self._config.kv_groups):
            return 0
        if not all(map(_only_decodes, items)) or not self._is_of_one_tenant(items[0].sequence):
            return 0
        if lifecycle.waiting and not self._stays_blocked(items):
            return 0
        num_steps = min([item.sequence.num_remaining for item in items]) - 1
        while num_steps > 0 and self._num_new_blocks(items, num_steps) > self._kv.pool.num_free:
            num_steps //= 2
        return max(0, num_steps)

    def _is_of_one_tenant(self, sequence: Sequence) -> bool:
        """Whether all sequences are of one tenant and one class, whose steps have no rules of their own."""
        service, account = sequence.service, sequence.account
        has_rules = service.is_evicted_first or service.fills_idle_steps or service.yields or not service.is_counted
        return not has_rules and account.weight == 1.0 and self._lifecycle.tenants.num_accounts == 1

    def _stays_blocked(self, items: list[PlanItem]) -> bool:
        """Whether the first waiting sequence, which the plan has not admitted, cannot be admitted after it either:
        slots and blocks only become fewer, unless blocks leave a window or the waiting sequence's prefix grows."""
        first = self._lifecycle.waiting.first
        is_fcfs = self._config.scheduling_policy is SchedulingPolicy.FCFS
        if first is None or not is_fcfs or self._planner.has_prefix_waits:
            return False
        if not self._lifecycle.num_free_slots:
            return True
        is_continued = any(_may_continue(first, item.sequence) for item in items)
        has_windows = any(not group.is_full_attention for group in self._config.kv_groups)
        return not has_windows and not is_continued and self._planner.token_budget > len(items)

    def _num_new_blocks(self, items: list[PlanItem], num_steps: int) -> int:
        """Return how many blocks the plans of `num_steps` steps after this one take, at most."""
        return sum([self._kv.num_new_blocks(item.sequence, item.end + num_steps) for item in items])

    def play_run(self, plan: StepPlan, num_steps: int, token_id: int) -> StepPlan:
        """Update the first `num_steps` steps of a run that begins with `plan`, as that many calls of `update` and
        `schedule` would; return the plan of the step after them. Outputs and stats of the steps are dropped.

        num_steps: at most `longest_run`. token_id: the token that each sequence gets of each step; it stops none."""
        kv, items = self._kv, plan.items
        unit, groups = self._config.prefix_unit, self._config.kv_groups
        events: list[tuple[int, int, int]] = []  # number of a step, part of it, number of the item
        for index, item in enumerate(items):
            events += [(step, _UPDATE, index) for step in _commits(item.end, num_steps, unit, groups)]
            for size in {group.block_size for group in groups}:
                events += [(step, _PLAN, index) for step in _multiples(item.end, num_steps, size)]
        for step, part, index in sorted(events):
            sequence, num_computed = items[index].sequence, items[index].start + step
            _advance(sequence, num_computed, token_id)
            if part == _UPDATE:
                kv.commit(sequence, num_computed - 1)
            elif not kv.is_allocated(sequence, num_computed + 1):
                kv.allocate(sequence, num_computed + 1)
        for item in items:
            _advance(item.sequence, item.start + num_steps, token_id)
            item.sequence.num_decode_steps += num_steps
        items[0].sequence.account.charge_output(num_steps * len(items))
        return StepPlan([PlanItem(item.sequence, item.start + num_steps, 1, 0, True) for item in items])


def _only_decodes(item: PlanItem) -> bool:
    sequence = item.sequence
    return (
        item.num_new == 1
        and item.needs_logits
        and not item.num_draft
        and item.start >= sequence.num_prompt
        and item.start >= sequence.num_computed_at_preemption
        and sequence.has_output
        and sequence.grammar is None
    )


def _may_continue(waiting: Sequence, running: Sequence) -> bool:
    """Whether the prompt of a waiting sequence may begin with all tokens of a running one, whose further blocks it
    could then share."""
    num_units = len(running.unit_hashes)
    if len(waiting.unit_hashes) < num_units:
        return False
    return not num_units or waiting.unit_hashes[num_units - 1] == running.unit_hashes[-1]


def _advance(sequence: Sequence, num_computed: int, token_id: int) -> None:
    sequence.tokens += [token_id] * (num_computed - sequence.num_computed)
    sequence.num_computed = num_computed


def _multiples(first: int, num_steps: int, size: int) -> range:
    """Return the numbers, from 1 to `num_steps`, of the steps after which a multiple of `size` tokens is computed.
    first: tokens that are computed after step 1."""
    return range(1 + -first % size, num_steps + 1, size)


def _commits(first: int, num_steps: int, unit: int, groups: tuple[KVGroup, ...]) -> list[int]:
    """Return the numbers of the steps after which a unit is full, or a block leaves a window."""
    steps = set(_multiples(first, num_steps, unit))
    for group in groups:
        if not group.is_full_attention:
            before = group.first_needed_entry(first - 1)
            for step in range(1, num_steps + 1):
                after = group.first_needed_entry(first - 1 + step)
                if after != before:
                    steps.add(step)
                before = after
    return sorted(steps)
