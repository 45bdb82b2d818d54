"""Scheduler: decides what each step computes, and turns its results into outputs.

A sequence has known tokens and computed tokens; a step computes some of the difference. A first prompt, a chunk of it,
the rest after a prefix hit, recomputation after preemption, decoding and verifying a draft differ only in these two
numbers.
"""

import itertools
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from engine.errors import InvalidRequest
from engine.protocol import (
    AbortReason,
    EngineRequest,
    FinishReason,
    NamedPrefix,
    PrefixAction,
    PrefixReport,
    RequestOutput,
    ServiceClass,
    StepStats,
)
from engine.protocol.kv_events import KVEvent
from engine.scheduling.adapters.slots import AdapterSlots
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.fairness.service_queue import service_order
from engine.scheduling.fairness.service_rules import SERVICE_RULES
from engine.scheduling.grammar import GrammarError, GrammarTooComplex, OutputGrammar
from engine.scheduling.kv.manager import KVManager
from engine.scheduling.kv.moves import BlockMoves
from engine.scheduling.kv.tier_options import TierOptions
from engine.scheduling.kv.tier_reads import TierReads
from engine.scheduling.lifecycle import Lifecycle
from engine.scheduling.outputs import apply_row, ended_event, terminal_output
from engine.scheduling.plan import PlanItem, RowResult, StepPlan, StepResult
from engine.scheduling.planner import StepPlanner, grant_drafts
from engine.scheduling.sequence import Gate, Sequence, SequenceStatus
from engine.scheduling.steps.budget import StepBudget
from engine.scheduling.steps.stats import take_step_stats
from engine.scheduling.time_limits import TimeLimits

logger = logging.getLogger(__name__)

_MAX_WITHDRAWN = 24  # times that memory ran out; more than it takes to halve any step down to one token
_NO_MEMORY = "memory ran out again and again while the engine computed this request; send it again, or a shorter one"
_GRAMMAR_TOO_COMPLEX = "following this request's grammar takes too much work from here on; make it smaller"
_GRAMMAR_FAILED = "the answer could not follow this request's grammar any further; a simpler grammar may help"


class Scheduler:
    """Owns all sequences. Calls alternate: schedule(), then update() with that plan's result.

    Between the two, `schedule_ahead` may plan the step after it. If it does, update() with its result follows the first
    update(), instead of another schedule(). `add` and `abort` may come at any time. Invariants: each accepted request
    is waiting, running or paused until its terminal output is emitted; `check` asserts this, and the invariants of
    Lifecycle and KVManager.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        *,
        budget: StepBudget | None = None,
        tier: TierOptions | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """budget: limits the tokens of each step; the default is the config's max_num_batched_tokens for every step.
        tier: storage for evicted blocks; not for models with recurrent states."""
        self._config = config
        self._kv = KVManager(config, tier, clock=clock)
        self._lifecycle = Lifecycle(config, self._kv, clock)
        budget = budget or StepBudget(config.max_num_batched_tokens)
        self._planner = StepPlanner(config, self._kv, self._lifecycle, budget=budget, clock=clock)
        self._limits = TimeLimits()
        self._clock = clock
        self._aborts: dict[str, AbortReason] = {}
        self._finished: list[Sequence] = []
        self._outputs: list[RequestOutput] = []
        self._num_added = 0

    @property
    def has_work(self) -> bool:
        """Whether a step would compute or report something; a sequence that waits for a grammar or for blocks from a
        tier does not count."""
        lifecycle = self._lifecycle
        has_started = lifecycle.running or lifecycle.paused
        if has_started or self._outputs or self._aborts or lifecycle.waiting.has_ready:
            return True
        if (reads := self._kv.tier_reads) is not None and reads.has_result:
            return True
        next_s = self._limits.next_s
        return next_s is not None and next_s <= self._clock()

    @property
    def seconds_to_deadline(self) -> float | None:
        """Seconds until the next time limit of a sequence or of its wait for a tier, when `has_work` becomes true; None
        without time limits."""
        reads = self._kv.tier_reads
        times_s = [each for each in (self._limits.next_s, None if reads is None else reads.next_s) if each is not None]
        return max(0.0, min(times_s) - self._clock()) if times_s else None

    @property
    def running(self) -> list[Sequence]:
        """Running sequences, in order of service."""
        return list(self._lifecycle.running)

    @property
    def num_waiting(self) -> int:
        return len(self._lifecycle.waiting)

    @property
    def tier_reads(self) -> TierReads | None:
        """Reads of blocks from a tier, or None without one."""
        return self._kv.tier_reads

    @property
    def adapters(self) -> AdapterSlots | None:
        """The adapters' slots, or None without adapters. Slots are filled only between update and schedule."""
        return self._lifecycle.adapters

    @property
    def adapter_digests(self) -> dict[bytes, bool]:
        """Digests of unfinished sequences' adapters; true if any of an adapter's sequences has been admitted."""
        digests: dict[bytes, bool] = {}
        for sequence in self._lifecycle.sequences.values():
            if (adapter := sequence.request.adapter) is not None:
                digests[adapter.digest] = digests.get(adapter.digest, False) or sequence.num_admitted > 0
        return digests

    @property
    def max_num_batched_tokens(self) -> int:
        """Maximum number of tokens in the next step."""
        return self._planner.token_budget

    @property
    def most_batched_tokens(self) -> int:
        """Maximum number of tokens in any step."""
        return self._config.max_num_batched_tokens

    # --- intake -------------------------------------------------------------------------------------------------------

    def num_spare_slots(self, service_class: ServiceClass) -> int:
        """Return how many slots are left by all running and waiting sequences that are served before a new one of this
        class; negative if more sequences wait."""
        rank = SERVICE_RULES[service_class].rank
        classes = [each for each, rules in SERVICE_RULES.items() if rules.rank <= rank]
        running, waiting = self._lifecycle.running, self._lifecycle.waiting
        return self._config.max_num_seqs - sum(running.num_of(each) + waiting.num_of(each) for each in classes)

    def num_pending_by_rank(self) -> Counter[int]:
        """Return the uncomputed tokens of running sequences and of as many ready ones that wait as there are slots, by
        the rank of their service class."""
        pending: Counter[int] = Counter()
        for sequence in self._lifecycle.running:
            pending[sequence.service.rank] += sequence.num_pending
        for sequence in itertools.islice(self._lifecycle.waiting, self._config.max_num_seqs):
            pending[sequence.service.rank] += sequence.num_to_compute if sequence.is_ready else 0
        return pending

    def add(
        self,
        request: EngineRequest,
        grammar: OutputGrammar | None = None,
        *,
        num_shared: int = 0,
        prefix_ends: tuple[int, ...] = (),
        continues: Sequence | None = None,
        part_of: Sequence | None = None,
    ) -> Sequence:
        """Accept a request, and return its sequence. grammar: request.grammar, compiled. num_shared: first tokens of
        the prompt that requests to come will share. prefix_ends: numbers of first tokens that others are likely to
        share. continues: the sequence of an ended request with the same beginning. part_of: an earlier sequence, in
        whose place of the order this one is served. Raises InvalidRequest if it can never be served."""
        assert request.id not in self._lifecycle.sequences, f"request id {request.id} is in use"
        self._config.check_length(request)
        if request.adapter is not None and self.adapters is None:
            raise InvalidRequest("this engine has no adapters (--enable-lora)", param="model")
        seed = request.drawn_seed if request.sampling.seed is None else request.sampling.seed
        sequence = Sequence(
            request=request,
            seed=secrets.randbits(63) if seed is None else seed,
            tokens=list(request.prompt_ids),
            num_prompt=len(request.prompt_ids),
            num_shared=num_shared,
            prefix_ends=prefix_ends,
            continues=continues,
            grammar=grammar,
        )
        if request.resumption is not None:
            sequence.resume(request.resumption)
        if continues is not None and sequence.tokens[:num_shared] == continues.tokens[:num_shared]:
            self._kv.adopt_hashes(sequence, continues, num_shared)
        if part_of is None:
            sequence.order = service_order(self._config.scheduling_policy, sequence, self._num_added)
        else:
            sequence.order = (*part_of.order[:-1], self._num_added)
        self._num_added += 1
        self._kv.extend_hashes(sequence)  # here, as requests come, and not for a whole queue within one step
        self._lifecycle.add(sequence)
        if grammar is not None:
            grammar.when_ready(lambda: self._lifecycle.open_gate(sequence, Gate.GRAMMAR))
        self._limits.add(sequence)
        return sequence

    def forget_tail(self, sequence: Sequence) -> None:
        """Free the end of a sequence, which has ended, from the prefix cache: no other will continue it."""
        self._kv.tails.forget(sequence)

    def abort(self, request_id: str, reason: AbortReason) -> None:
        """End a request; its terminal output comes with the next update. Unknown and finished ids are ignored."""
        if request_id in self._lifecycle.sequences:
            self._aborts.setdefault(request_id, reason)

    def fail(self, request_id: str, error: str, *, is_refused: bool = False) -> None:
        """End a request with an error; its output comes with the next update. is_refused: the request is at fault."""
        if request_id in self._lifecycle.sequences:
            self._fail(self._lifecycle.sequences[request_id], error, is_refused=is_refused)

    def handle_prefix(self, action: PrefixAction, prefix: NamedPrefix) -> PrefixReport:
        """Save, pin or unpin a prefix, and report where its blocks are. Call between update and schedule."""
        return self._kv.pins.handle(action, prefix)

    # --- drafts -------------------------------------------------------------------------------------------------------

    def grant_drafts(self, requested: list[tuple[Sequence, int]]) -> list[int]:
        """Return how many draft tokens each of these sequences may have. Call between update and schedule."""
        return grant_drafts(self._kv, self._lifecycle, requested)

    def set_draft(self, sequence: Sequence, token_ids: list[int]) -> None:
        """Set a sequence's draft, at most as many tokens as were granted. Blocks that the draft does not need are
        freed."""
        sequence.draft = token_ids
        self._kv.trim(sequence, sequence.num_with_draft)

    # --- steps --------------------------------------------------------------------------------------------------------

    def schedule(self) -> StepPlan:
        self._finish_aborted()
        self._finish_due()
        if (reads := self._kv.tier_reads) is not None and reads.has_result:
            self._lifecycle.collect_reads(reads)
        return self._planner.plan()

    def schedule_ahead(self, launched: StepPlan) -> StepPlan | None:
        """Plan the step after a launched one, whose result is not known: each sequence continues by the token that it
        gets there. Sequences that turn out to have ended are dropped when the step is updated.

        Return None if more than that may have to be decided, or if a token must be known first.
        """
        return self._planner.plan_ahead(launched)

    def withdraw_ahead(self, plan: StepPlan) -> None:
        """Undo `schedule_ahead`, for a step that was not launched, or whose result is not used."""
        for item in plan.items:
            item.sequence.num_ahead = 0

    def take_moves(self) -> BlockMoves | None:
        """Return blocks to save when no step may follow soon; a step's plan has its own."""
        return self._kv.take_moves()

    def take_block_events(self) -> list[KVEvent]:
        """Return what blocks were cached and forgotten since the last call; nothing unless the config says so."""
        return [] if self._kv.events is None else self._kv.events.take()

    def update(self, plan: StepPlan, result: StepResult) -> list[RequestOutput]:
        """Apply the plan's result; return one output for each sequence with something to report."""
        now_s = self._clock()
        self._kv.free_held()
        count_computed = self._lifecycle.tally.count_computed
        for item, row in zip(plan.items, result.rows, strict=True):
            sequence, start, num_new, _, _ = item
            if sequence.status is SequenceStatus.FINISHED:
                continue  # it ended in the step before, when this one had been launched
            if sequence.num_ahead and sequence.num_ahead == start + num_new:
                sequence.num_ahead = 0
            count_computed(sequence, start, num_new, now_s)
            if not self._aborts or sequence.id not in self._aborts:  # the result of an aborted sequence is dropped
                self._apply(item, row, now_s)
        self._finish_aborted()
        self._finish_due()  # here too, or it would be reported only after the next step
        outputs, self._outputs = self._outputs, []
        return outputs

    def withdraw(self, plan: StepPlan, *, is_loaded: bool = True) -> None:
        """Requeue the sequences of a plan that ran out of memory; call in place of `update`. Sequences to which this
        has happened too often end with an error. is_loaded: the blocks from a tier have their contents; otherwise they
        are computed."""
        self._lifecycle.tally.memory_shortages += 1
        self._kv.free_held()
        self.withdraw_ahead(plan)
        sequences = [item.sequence for item in plan.items if item.sequence.status is not SequenceStatus.FINISHED]
        if not is_loaded and plan.moves is not None:
            loaded = {load.block for load in plan.moves.loads}
            # A sequence that was admitted for this step may have no tokens in it.
            sequences += [
                each
                for each in self.running
                if each not in sequences and not loaded.isdisjoint(itertools.chain(*each.tables))
            ]
            self._kv.unload(plan.moves, sequences)
        for sequence in reversed(sequences):
            self._lifecycle.withdraw(sequence)
            if sequence.num_withdrawn > _MAX_WITHDRAWN:
                self._fail(sequence, _NO_MEMORY)

    def take_stats(self, **known: Any) -> StepStats:
        """Return the stats of the last updated step. known: StepStats fields measured outside the scheduler."""
        return take_step_stats(self._lifecycle, self._kv, known)

    def take_finished(self) -> list[Sequence]:
        """Return the sequences that ended since the last call, so that callers can release their own state of them."""
        finished, self._finished = self._finished, []
        return finished

    def _apply(self, item: PlanItem, row: RowResult, now_s: float) -> None:
        sequence = item.sequence
        if row.error is not None:
            self._lifecycle.tally.corrupted += row.is_corrupted
            self._fail(sequence, row.error, is_refused=row.refused_param is not None, refused_param=row.refused_param)
            return
        grammar = sequence.grammar
        num_forced = 0 if grammar is None else grammar.num_forced
        try:
            output = apply_row(item, row, self._config.eos_token_ids, now_s=now_s)
        except GrammarTooComplex as error:
            logger.warning("request %s ends: its grammar is too complex: %s", sequence.id, error)
            self._fail(sequence, _GRAMMAR_TOO_COMPLEX, is_refused=True)
            return
        except GrammarError as error:
            logger.error("request %s ends: %s", sequence.id, error)
            self._fail(sequence, _GRAMMAR_FAILED)
            return
        if grammar is not None:
            self._lifecycle.tally.forced_tokens += grammar.num_forced - num_forced
            self._kv.extend_hashes(sequence)  # forced tokens are known before they are computed
        self._kv.commit(sequence, item.start)
        if output is None:
            return
        if sequence.num_written and (output.first_token_s is not None or output.finish_reason is not None):
            output = msgspec.structs.replace(output, num_written_tokens=sequence.num_written)
        if output.new_ids:
            sequence.account.charge_output(len(output.new_ids))
        if output.finish_reason is None:
            self._outputs.append(output)
        else:
            self._finish(sequence, output)

    def _finish_aborted(self) -> None:
        aborts, self._aborts = self._aborts, {}
        for request_id, reason in aborts.items():
            sequence = self._lifecycle.sequences[request_id]
            finish_reason = FinishReason.STOP if reason is AbortReason.STOP_STRING else FinishReason.ABORT
            self._finish(sequence, terminal_output(sequence, finish_reason))

    def _finish_due(self) -> None:
        for sequence, reason in self._limits.take_due(self._clock()).items():
            self._finish(sequence, terminal_output(sequence, reason))

    def _fail(self, sequence: Sequence, error: str, **details: Any) -> None:
        """End a sequence with an error. details: further arguments of `terminal_output`."""
        self._finish(sequence, terminal_output(sequence, FinishReason.ERROR, error=error, **details))

    def _finish(self, sequence: Sequence, output: RequestOutput) -> None:
        """Emit the terminal output and forget the sequence."""
        self._aborts.pop(sequence.id, None)  # the sequence ended first: there is nothing left to abort
        self._lifecycle.tally.note(sequence, ended_event(sequence, output, self._clock()))
        self._lifecycle.finish(sequence, is_failed=output.finish_reason is FinishReason.ERROR)
        self._planner.forget(sequence)
        self._finished.append(sequence)
        self._outputs.append(output)

    def check(self) -> None:
        """Assert the invariants of all sequences and blocks; cheap enough to run after every step of a test."""
        self._lifecycle.check()
        self._planner.check()
        self._limits.check(self._lifecycle.sequences.values())
