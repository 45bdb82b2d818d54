"""Scheduler: decides what each step computes, and turns what came of it into outputs.

One arithmetic serves everything. A sequence has tokens that are wanted and tokens that are computed; a step computes
some of the difference. A first prompt, a chunk of it, what a prefix hit left over, recomputation after preemption,
decoding and verifying a draft differ in nothing but these two numbers.

Sequences are served in one order, by arrival or by priority, and preempted from its end. The first in the order is
never preempted, and it alone always fits the pool (`add` refuses what does not), so every step with work to do makes
progress and no two sequences can keep preempting each other.
"""

import secrets
import time
from collections.abc import Callable
from typing import Any

from engine.errors import ContextLengthExceeded, InvalidRequest
from engine.protocol import AbortReason, EngineRequest, FinishReason, RequestOutput, StepStats
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.kv.manager import KVManager
from engine.scheduling.kv.prefixes import PrefixMatch
from engine.scheduling.outputs import apply_row, finish_reason_of_abort, terminal_output
from engine.scheduling.plan import PlanItem, RowResult, StepPlan, StepResult
from engine.scheduling.queue import ServiceQueue, service_order
from engine.scheduling.sequence import Sequence, SequenceStatus
from engine.scheduling.step_budget import StepBudget
from engine.scheduling.step_tally import StepTally


class Scheduler:
    """Owns all sequences. Calls alternate: schedule(), then update() with that plan's result.

    `add` and `abort` may come at any time, also between the two. Invariants: each accepted request is in exactly one of
    waiting and running until its terminal output is emitted; only running sequences hold blocks; `check` asserts these
    and the block pool's.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        *,
        budget: StepBudget | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """budget: tokens of a step, by default always the config's max_num_batched_tokens."""
        self._config = config
        self._budget = budget or StepBudget(config.max_num_batched_tokens)
        self._clock = clock
        self._kv = KVManager(
            config.num_blocks,
            config.block_size,
            config.kv_groups,
            num_states=config.num_states,
            enable_prefix_caching=config.enable_prefix_caching,
        )
        self._sequences: dict[str, Sequence] = {}
        self._waiting = ServiceQueue()
        self._running = ServiceQueue()
        self._aborts: dict[str, AbortReason] = {}
        self._finished: list[Sequence] = []
        self._outputs: list[RequestOutput] = []
        self._tally = StepTally()
        self._num_added = 0

    @property
    def has_work(self) -> bool:
        """Whether a step would compute something or has something to report."""
        return bool(self._sequences or self._outputs)

    # --- intake -------------------------------------------------------------------------------------------------------

    def add(self, request: EngineRequest) -> None:
        """Accept a request; raises InvalidRequest if it can never be served."""
        assert request.id not in self._sequences, f"request id {request.id} is in use"
        self._check_length(request)
        seed = request.sampling.seed
        sequence = Sequence(
            request=request,
            seed=secrets.randbits(63) if seed is None else seed,
            tokens=list(request.prompt_ids),
            num_prompt=len(request.prompt_ids),
        )
        sequence.order = service_order(self._config.scheduling_policy, sequence, self._num_added)
        self._num_added += 1
        self._kv.extend_hashes(sequence)  # here, as requests come, and not for a whole queue within one step
        self._sequences[request.id] = sequence
        self._waiting.add(sequence)

    def _check_length(self, request: EngineRequest) -> None:
        num_prompt, max_tokens = len(request.prompt_ids), request.sampling.max_tokens
        if num_prompt == 0:
            raise InvalidRequest("the prompt has no tokens; send at least one", param="prompt")
        if num_prompt + max_tokens > self._config.max_model_len:
            raise ContextLengthExceeded(
                f"the prompt has {num_prompt:,} tokens and max_tokens is {max_tokens:,}; together they may be at most "
                f"{self._config.max_model_len:,}; shorten the prompt or lower max_tokens",
                param="prompt" if num_prompt > self._config.max_model_len else "max_tokens",
            )
        if len(request.prediction_ids) > self._config.max_model_len:
            raise InvalidRequest(
                f"the prediction has {len(request.prediction_ids):,} tokens; an answer can have at most "
                f"{self._config.max_model_len:,}; shorten it",
                param="prediction",
            )

    def abort(self, request_id: str, reason: AbortReason) -> None:
        """End a request; its terminal output comes with the next update. Unknown and finished ids are ignored."""
        if request_id in self._sequences:
            self._aborts.setdefault(request_id, reason)

    @property
    def running(self) -> list[Sequence]:
        """In order of service."""
        return list(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def max_num_batched_tokens(self) -> int:
        """Of the next step."""
        return self._budget.tokens(sum(1 for sequence in self._running if sequence.num_output > 0))

    @property
    def most_batched_tokens(self) -> int:
        """Of any step."""
        return self._config.max_num_batched_tokens

    def grant_drafts(self, wanted: list[tuple[Sequence, int]]) -> list[int]:
        """How many draft tokens each of these sequences may have; called between update and schedule.

        As many as there are blocks for, which it holds from now on until `set_draft` says what it uses of them. Nobody
        gives way to a draft: what others need for tokens that they know is set aside first.
        """
        num_spare = self._num_unclaimed_blocks()
        granted = []
        for sequence, num_tokens in wanted:
            assert sequence.status is SequenceStatus.RUNNING
            assert sequence.num_pending == 1
            assert num_tokens < sequence.num_remaining, "verification always brings one token more"
            num_known, num_own = len(sequence.tokens), self._kv.num_blocks_needed(sequence)
            num_covered = self._kv.max_tokens_that_fit(sequence, num_known + num_tokens, num_free=num_spare + num_own)
            if num_covered > num_known:
                num_spare += num_own - self._kv.allocate_blocks(sequence, num_covered)
            granted.append(max(0, num_covered - num_known))
        return granted

    def set_draft(self, sequence: Sequence, token_ids: list[int]) -> None:
        """Propose the tokens that follow: at most as many as were granted. The blocks of the others are given back."""
        sequence.draft = token_ids
        self._kv.trim(sequence, sequence.num_with_draft)

    def _num_unclaimed_blocks(self) -> int:
        """Free blocks that nobody needs for tokens that are known: not what runs, nor who is admitted next."""
        num_reserved = sum(self._kv.num_blocks_needed(sequence) for sequence in self._running)
        num_free = self._kv.pool.num_free - num_reserved
        if not self._waiting or len(self._running) >= self._config.max_num_seqs:
            return num_free
        num_free_after = self._kv.num_free_after(self._waiting[0], self._kv.match(self._waiting[0]), num_reserved)
        return (
            num_free_after if num_free_after >= 0 else num_free
        )  # who finds no room in any case waits for more than a draft

    # --- schedule -----------------------------------------------------------------------------------------------------

    def schedule(self) -> StepPlan:
        """The next step: first what runs already, then, if nothing had to be preempted, what waits."""
        self._end_aborted()
        self._preempt_yielding()
        items: list[PlanItem] = []
        num_running = len(self._running)
        budget = self._continue_running(items)
        if len(self._running) == num_running:
            self._admit_waiting(items, budget)
        return StepPlan(items)

    def _preempt_yielding(self) -> None:
        """Preempt sequences whose class yields, from the end of the order, while one of a lower rank waits."""
        running, waiting = self._running, self._waiting
        while running and waiting and running[-1].service.yields:
            if waiting[0].service.rank >= running[-1].service.rank:
                return
            self._preempt(running[-1])

    def _continue_running(self, items: list[PlanItem]) -> int:
        """Plan the next tokens of running sequences, in order; returns what is left of the token budget."""
        budget = self.max_num_batched_tokens
        for sequence in self._running:  # whoever gives way is the last one, so that nobody is passed over
            if budget == 0:
                break
            num_new = self._make_room(sequence, self._chunk(sequence, budget))
            if num_new == 0:  # it was the last in the order and gave way itself
                break
            items.append(self._plan_item(sequence, num_new))
            budget -= num_new
        return budget

    def _chunk(self, sequence: Sequence, budget: int) -> int:
        """How many of the pending tokens to compute in this step."""
        threshold = self._config.long_prefill_token_threshold
        if threshold == 0 or sequence.draft:  # only a sequence that has caught up drafts: there is nothing to prefill
            return min(sequence.num_pending, budget)
        return min(sequence.num_pending, budget, threshold)

    def _make_room(self, sequence: Sequence, num_new: int) -> int:
        """Allocate blocks for `num_new` tokens, or as many as there is room for; where there is none, preempt the last
        sequences in the order.

        Returns the number of tokens: 0 if `sequence` itself had to give way.
        """
        num_computed, pool = sequence.num_computed, self._kv.pool
        if self._kv.is_allocated(sequence, num_computed + num_new):  # as in most steps that decode
            return num_new
        while (
            num_tokens := self._kv.max_tokens_that_fit(sequence, num_computed + num_new, num_free=pool.num_free)
        ) == num_computed:
            victim = self._running[-1]
            self._preempt(victim)
            if victim is sequence:
                return 0
        self._kv.allocate(sequence, num_tokens)
        return num_tokens - num_computed

    def _preempt(self, sequence: Sequence) -> None:
        """Take everything back; the sequence waits and will be computed again, less what is still cached then."""
        assert len(self._running) > 1 or sequence.service.yields, "a sequence that runs alone always fits"
        self._running.remove(sequence)
        self._kv.free(sequence)
        sequence.num_computed_at_preemption = max(sequence.num_computed_at_preemption, sequence.num_computed)
        sequence.num_computed = 0
        sequence.draft = []
        sequence.status = SequenceStatus.WAITING
        self._waiting.add(sequence)
        if sequence.service.is_counted:
            self._tally.preemptions += 1

    def _plan_item(self, sequence: Sequence, num_new: int) -> PlanItem:
        end = sequence.num_computed + num_new
        num_draft = max(0, end - len(sequence.tokens))
        if num_draft < len(sequence.draft):
            del sequence.draft[num_draft:]  # what does not fit this step is proposed anew after it
        needs_logits = end == sequence.num_with_draft and sequence.request.sampling.max_tokens > 0
        return PlanItem(sequence, num_new, num_draft, needs_logits)

    def _admit_waiting(self, items: list[PlanItem], budget: int) -> None:
        """Start waiting sequences in order while budget, places and blocks allow.

        A sequence whose next full block is being computed in this very step steps aside until it can share that block;
        others may pass it. It never waits for one that has stopped: only sequences of this plan count.
        """
        max_num_seqs = self._config.max_num_seqs
        if not self._waiting or budget == 0 or len(self._running) >= max_num_seqs:
            return
        computing = [item.sequence for item in items]
        num_reserved = sum(self._kv.num_blocks_needed(sequence) for sequence in self._running)
        for sequence in list(self._waiting):
            if budget == 0 or len(self._running) >= max_num_seqs:
                return
            match = self._kv.match(sequence)
            if self._waits_for_another(sequence, match, computing):
                continue
            # Its whole prompt must fit beside what others still need for theirs: a prompt that is begun and then
            # preempted for want of blocks was computed for nothing.
            if not self._kv.can_admit(sequence, match, num_reserved):
                return
            self._start(sequence, match)
            num_new = self._make_room(sequence, self._chunk(sequence, budget))
            items.append(self._plan_item(sequence, num_new))
            budget -= num_new
            num_reserved += self._kv.num_blocks_needed(sequence)
            computing.append(sequence)

    def _waits_for_another(self, sequence: Sequence, match: PrefixMatch, computing: list[Sequence]) -> bool:
        """Whether one of `computing` computes in this step what follows `match` in a waiting sequence; then what that
        needs to go on where the two texts part is kept."""
        for other in computing:
            if num_blocks := self._kv.num_shareable_blocks(sequence, match, other):
                self._kv.add_branch_point(other, num_blocks)
                return True
        return False

    def _start(self, sequence: Sequence, match: PrefixMatch) -> None:
        self._waiting.remove(sequence)
        self._kv.admit(sequence, match)
        sequence.status = SequenceStatus.RUNNING
        sequence.num_admitted += 1
        self._running.add(sequence)
        if sequence.num_cached is None:
            sequence.num_cached = sequence.num_computed
            sequence.first_scheduled_s = self._clock()
            is_looked_up = self._config.enable_prefix_caching and not sequence.needs_prompt_rows
            if is_looked_up and sequence.service.is_counted:
                self._tally.prefix_queries += sequence.num_prompt
                self._tally.prefix_hits += sequence.num_computed

    # --- update -------------------------------------------------------------------------------------------------------

    def update(self, plan: StepPlan, result: StepResult) -> list[RequestOutput]:
        """Take in what the plan brought; returns one output for each sequence with news."""
        for item, row in zip(plan.items, result.rows, strict=True):
            self._tally.count_computed(item.sequence, item.num_new)
            if item.sequence.id not in self._aborts:  # what an aborted one brought is nobody's any more
                self._take_in(item, row)
        self._end_aborted()
        outputs, self._outputs = self._outputs, []
        return outputs

    def take_stats(self, **known: Any) -> StepStats:
        """The account of the step that was updated last. known: fields of it that others have to say."""
        tally, self._tally = self._tally, StepTally()
        pool, states = self._kv.pool, self._kv.states
        return StepStats(
            running=self._running.num_counted,
            waiting=self._waiting.num_counted,
            blocks_total=pool.num_blocks,
            blocks_used=pool.num_used,
            blocks_cached=pool.num_free_cached,
            states_total=states.num_blocks,
            states_used=states.num_used,
            states_cached=states.num_free_cached,
            prefill_tokens=tally.prefill_tokens,
            decode_tokens=tally.decode_tokens,
            prefix_queries=tally.prefix_queries,
            prefix_hits=tally.prefix_hits,
            preemptions=tally.preemptions,
            recomputed_tokens=tally.recomputed_tokens,
            **known,
        )

    def take_finished(self) -> list[Sequence]:
        """Sequences that ended since the last call: whoever holds state for them may let go."""
        finished, self._finished = self._finished, []
        return finished

    def _take_in(self, item: PlanItem, row: RowResult) -> None:
        sequence = item.sequence
        if row.error is not None:
            self._finish(sequence, terminal_output(sequence, FinishReason.ERROR, error=row.error))
            return
        num_computed = sequence.num_computed
        output = apply_row(item, row, self._config.eos_token_ids)
        self._kv.commit(sequence, num_computed)
        if output is None:
            return
        if output.finish_reason is None:
            self._outputs.append(output)
        else:
            self._finish(sequence, output)

    def _end_aborted(self) -> None:
        aborts, self._aborts = self._aborts, {}
        for request_id, reason in aborts.items():
            sequence = self._sequences[request_id]
            self._finish(sequence, terminal_output(sequence, finish_reason_of_abort(reason)))

    def _finish(self, sequence: Sequence, output: RequestOutput) -> None:
        """Emit the terminal output and forget the sequence."""
        del self._sequences[sequence.id]
        if sequence.status is SequenceStatus.RUNNING:
            self._running.remove(sequence)
        else:
            self._waiting.remove(sequence)
        if output.finish_reason is FinishReason.ERROR or not sequence.service.stays_cached:
            self._kv.discard(sequence)
        else:
            self._kv.free(sequence)
        sequence.status = SequenceStatus.FINISHED
        self._finished.append(sequence)
        self._outputs.append(output)

    def check(self) -> None:
        """Assert the invariants of all sequences and blocks; cheap enough to run after every step of a test."""
        running, waiting = list(self._running), list(self._waiting)
        assert {s.id for s in running} | {s.id for s in waiting} == set(self._sequences)
        assert len(running) + len(waiting) == len(self._sequences)
        assert len(running) <= self._config.max_num_seqs
        for sequence in running:
            assert sequence.status is SequenceStatus.RUNNING
            assert 0 <= sequence.num_computed < sequence.num_with_draft, sequence.id
        for sequence in waiting:
            assert sequence.status is SequenceStatus.WAITING
            assert sequence.num_computed == 0, sequence.id
            assert sequence.tables == sequence.draft == [], sequence.id
        self._kv.check(running)
