"""Engine: one model's scheduler and runner together. Takes requests and aborts, and runs one step at a time."""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

from engine.adapters.service import AdapterService
from engine.client.output_groups import OutputGroups
from engine.config import EngineConfig
from engine.errors import InvalidRequest
from engine.grammar.compiler import GrammarCompiler
from engine.grammar.lanes import GrammarKey
from engine.grammar.sequence_grammar import SequenceGrammar
from engine.protocol import (
    AbortReason,
    AbortRequest,
    AdapterRefused,
    AddRequest,
    AddScoring,
    AuditVerdict,
    EngineRequest,
    FinishReason,
    ForgetAdapter,
    HandlePrefix,
    LoadAdapter,
    PrefixHandled,
    RequestOutput,
    ScoringRequest,
    StepOutputs,
    ToEngine,
)
from engine.protocol.adapters import NO_ADAPTERS
from engine.protocol.kv_events import EventPublisher
from engine.runner.contained import LaunchedStep, collect_contained, discard_step, launch_contained
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.fairness.service_rules import CountedAs
from engine.scheduling.kv.moves import AttachedTier
from engine.scheduling.kv.tier_options import TierOptions
from engine.scheduling.plan import Runner, StepPlan, StepResult
from engine.scheduling.scheduler import Scheduler
from engine.scheduling.steps.budget import StepBudget
from engine.scoring.runs import ScoringRuns
from engine.speculation.audit import Auditor
from engine.speculation.proposers import DraftSource
from engine.speculation.settings import AUTO_TOKENS
from engine.speculation.speculator import Speculator

logger = logging.getLogger(__name__)

_CLOSE_S = 3.0  # less than EXIT_TIMEOUT_S, after which the process is killed


class Engine:
    """A ServedEngine that generates text. One thread calls `handle`, `add`, `abort` and `step`, in any order.

    Where the runner can feed a step with tokens that only the device has, a call of `step` launches the step after the
    one that it collects, so that the device computes while the host sends outputs and plans.

    Every added request ends with exactly one terminal output, whatever happens.
    """

    def __init__(
        self,
        config: EngineConfig,
        runner: Runner[Any],
        *,
        num_blocks: int,
        num_states: int = 0,
        eos_token_ids: list[int],
        budget: StepBudget | None = None,
        speculator: Speculator | None = None,
        grammars: GrammarCompiler | None = None,
        adapters: AdapterService[Any, Any] | None = None,
        on_started: Callable[[list[str]], None] | None = None,
        tier: AttachedTier | None = None,
        publisher: EventPublisher | None = None,
    ) -> None:
        """`config` must have max_model_len and max_num_batched_tokens resolved; `runner` has `num_blocks` KV blocks
        and, if its model has recurrent layers, `num_states` states.

        budget: tokens per step, by default always max_num_batched_tokens. speculator: by default, drafts only from
        requests' predicted outputs. grammars: None refuses requests with a grammar. adapters: required exactly with
        --enable-lora. on_started: called with the ids of requests before the first step that computes them.
        tier: where evicted blocks go; not for a model with recurrent layers. publisher: of events about cached blocks;
        required exactly with --kv-events.
        """
        self._runner = runner
        self._budget = budget or StepBudget(config.max_num_batched_tokens)
        self._scheduler = Scheduler(
            SchedulerConfig.from_engine_config(
                config,
                num_blocks=num_blocks,
                num_states=num_states,
                kv_groups=runner.kv_groups,
                eos_token_ids=eos_token_ids,
                copies_blocks=runner.copies_blocks,
            ),
            budget=self._budget,
            tier=None if tier is None else TierOptions.of_pool(tier, num_blocks, self._budget.prefill_s),
        )
        self._scoring = ScoringRuns(self._scheduler)
        self._tier = tier
        self._publisher = publisher
        assert (publisher is None) == (config.kv_events is None)
        self._speculator = speculator or Speculator(AUTO_TOKENS)
        self._grammars = grammars
        self.adapters = adapters
        assert (adapters is None) == (self._scheduler.adapters is None)
        self._on_started = on_started
        self._auditor = Auditor(config.spec_audit_rate)
        self._check_invariants = config.check_invariants
        self._refused: list[RequestOutput] = []
        self._has_handled = False  # a prefix, since the last step
        self._ahead: LaunchedStep | None = None  # launched before the step before it was collected
        self._groups = OutputGroups()
        self.send_s = 0.0  # see ServedEngine

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to compute or to report, or a grammar or adapter has become ready, or a prefix
        was pinned."""
        has_grammar = self._grammars is not None and self._grammars.has_compiled
        has_adapter = self.adapters is not None and self.adapters.has_work(self._scheduler)
        has_outputs = bool(self._refused) or self._has_handled or self._ahead is not None
        return self._scheduler.has_work or has_outputs or has_grammar or has_adapter

    @property
    def seconds_to_deadline(self) -> float | None:
        return self._scheduler.seconds_to_deadline

    @property
    def is_preparing(self) -> bool:
        """Whether a grammar is compiling, an adapter is loading, or blocks are read from a tier; `has_work` becomes
        true when that is done."""
        is_compiling = self._grammars is not None and self._grammars.is_compiling
        reads = self._scheduler.tier_reads
        is_reading = (reads is not None and reads.is_reading) or (
            self.adapters is not None and self.adapters.is_reading
        )
        return is_compiling or is_reading

    def wait_for_prepared(self) -> None:
        """Block until a grammar is compiled, blocks are read or an adapter is loaded. Call only while
        `is_preparing`."""
        if self._grammars is not None and self._grammars.is_compiling:
            self._grammars.wait()
        elif (reads := self._scheduler.tier_reads) is not None and reads.is_reading:
            reads.wait()
        else:
            assert self.adapters is not None
            self.adapters.wait()

    def handle(self, message: ToEngine) -> AdapterRefused | PrefixHandled | None:
        match message:
            case AddRequest(request=request):
                self.add(request)
            case AddScoring(request=scoring):
                self.score(scoring)
            case AbortRequest(id=request_id, reason=reason):
                self.abort(request_id, reason)
            case LoadAdapter(number=number, path=path):
                if self.adapters is None:
                    return AdapterRefused(number, NO_ADAPTERS)
                self.adapters.load(number, path)
            case ForgetAdapter(digest=digest) if self.adapters is not None:
                self.adapters.forget(digest)
            case HandlePrefix(number=number, action=action, prefix=prefix):
                self._has_handled = True  # a step reports the blocks in its stats
                return PrefixHandled(number, self._scheduler.handle_prefix(action, prefix))
        return None

    def add(self, request: EngineRequest) -> None:
        """Queue a request. A request that can never be served ends with an error output in the next step.

        The API process refuses such requests before it submits them, with the right status; this is a second check.
        """
        self._groups.add(request)
        with self._refusing(request.id):
            self._scheduler.add(request, self._start_grammar(request))

    def score(self, request: ScoringRequest) -> None:
        """Queue a request to score labels; as `add`."""
        with self._refusing(request.id):
            self._scoring.add(request)

    @contextlib.contextmanager
    def _refusing(self, request_id: str) -> Iterator[None]:
        """End a request with an error output if it is refused."""
        try:
            yield
        except InvalidRequest as error:
            logger.warning("request %s refused: %s", request_id, error)
            output = RequestOutput(id=request_id, finish_reason=FinishReason.ERROR, error=str(error), is_refused=True)
            self._refused.append(output)

    def _start_grammar(self, request: EngineRequest) -> SequenceGrammar | None:
        if request.grammar is None:
            return None
        if self._grammars is None:
            raise InvalidRequest("this engine compiles no grammars")
        sampling = request.sampling
        # Every token has log probabilities, and none may be banned: then each needs a row of its own.
        needs_rows = sampling.logprobs is not None or bool(sampling.bad_words) or sampling.allowed_token_ids is not None
        output_ids = [] if request.resumption is None else request.resumption.output_ids
        return self._grammars.start(
            request.id,
            GrammarKey(request.cache_salt, request.grammar),
            appends_forced=not needs_rows,
            output_ids=output_ids,
        )

    def abort(self, request_id: str, reason: AbortReason) -> None:
        """End a request in the next step; ignored if it has ended already."""
        if not self._scoring.abort(request_id, reason):
            self._scheduler.abort(request_id, reason)

    def step(self) -> StepOutputs:
        """Run one step; return outputs of all requests with something to report, also aborted and refused ones."""
        start_s = time.perf_counter()
        self._has_handled = False
        self._collect_grammars()
        if self.adapters is not None:
            self.adapters.begin_step(self._scheduler)
        step, self._ahead = self._ahead, None
        if step is None:
            self._draft()
        else:
            self._speculator.begin_step()
        drafted_s = time.perf_counter()
        began_s = drafted_s if step is None else step.began_s
        plan = self._scheduler.schedule() if step is None else step.plan
        self._report_started(plan)
        is_loaded = step is not None or self._move(plan)
        scheduled_s = time.perf_counter()
        result: StepResult | None = StepResult([])
        if not is_loaded:
            result = None
        elif plan.items:
            step = step or launch_contained(self._runner, plan)
            self._launch_ahead(step)
            result = collect_contained(self._runner, step, self._budget, drop_ahead=self._drop_ahead)
        if result is None:
            self._scheduler.withdraw(plan, is_loaded=is_loaded)
            plan, result = StepPlan([]), StepResult([])
        executed_s = time.perf_counter()
        step_s = executed_s - began_s
        if self._ahead is not None:
            self._ahead.began_s = executed_s  # it waited for the device
        outputs = self._scheduler.update(plan, result)
        outputs = self._learn(plan, result, outputs, step_s)
        outputs, verdict = self._auditor.collect(outputs)
        outputs = self._scoring.collect(outputs)
        if verdict is AuditVerdict.DISAGREEMENT:
            logger.error("a sequence generated with drafts differs from its repeat without them; speculation is off")
            self._speculator.give_up()
        for sequence in self._scheduler.take_finished():
            self._runner.release(sequence)
            self._speculator.release(sequence)
            request = sequence.request
            if self._grammars is not None and request.grammar is not None:
                self._grammars.forget(sequence.id, GrammarKey(request.cache_salt, request.grammar))
            if (repeat := self._auditor.start_repeat(sequence, self._scheduler.num_waiting)) is not None:
                self._scheduler.add(repeat)
        if not self._scheduler.has_work:
            self._save_pending()
        if self._publisher is not None:
            self._publisher.publish(self._scheduler.take_block_events())
        if self._check_invariants:
            self._scheduler.check()
        refused, self._refused = self._refused, []
        stats = self._scheduler.take_stats(
            **self._phases(plan, result, start_s, drafted_s, scheduled_s, executed_s),
            expert_rows=result.expert_rows,
            expert_imbalance=result.expert_imbalance,
            audit=verdict,
            is_speculation_off=self._speculator.is_off,
            num_masks=result.num_masks,
            mask_s=result.mask_s,
            **self._grammar_stats(),
            adapters=None if self.adapters is None else self.adapters.stats(self._scheduler),
            **self._speculator.step_stats(),
            **self._tier_stats(),
            **self._budget.take_prediction()._asdict(),
            kv_events_dropped=0 if self._publisher is None else self._publisher.take_num_dropped(),
        )
        return StepOutputs(self._groups.pass_on(refused + outputs), self._scoring.count_once(stats))

    def _launch_ahead(self, step: LaunchedStep) -> None:
        """Launch the step after one that was just launched, if it can be planned without that one's result."""
        if step.error is not None or not self._runner.can_feed(step.pending):
            return
        if self._speculator.may_draft(self._scheduler) or (plan := self._scheduler.schedule_ahead(step.plan)) is None:
            return
        is_loaded = self._move(plan)
        assert is_loaded, "a plan ahead loads nothing"
        self._ahead = launch_contained(self._runner, plan)
        if self._ahead.error is not None:
            self._drop_ahead()

    def _drop_ahead(self) -> None:
        """Wait for the step launched ahead, if there is one, and plan it anew."""
        step, self._ahead = self._ahead, None
        if step is not None:
            discard_step(self._runner, step)
            self._scheduler.withdraw_ahead(step.plan)

    def _move(self, plan: StepPlan) -> bool:
        """Carry out a plan's moves to and from the tier; return whether all blocks have been loaded."""
        return plan.moves is None or self._tier is None or self._tier.move(plan.moves)

    def _phases(
        self,
        plan: StepPlan,
        result: StepResult,
        start_s: float,
        drafted_s: float,
        scheduled_s: float,
        executed_s: float,
    ) -> dict[str, float]:
        """Return the durations of the step's phases, and its FLOPs and bytes, as fields of StepStats. The arguments are
        time.perf_counter() readings."""
        if not _is_counted(plan):
            return {}
        now_s = time.perf_counter()
        return {
            **({} if result.work is None else result.work._asdict()),
            "step_s": now_s - start_s,
            "draft_s": drafted_s - start_s,
            "schedule_s": scheduled_s - drafted_s,
            "forward_s": executed_s - scheduled_s - result.sample_s,
            "sample_s": result.sample_s,
            "update_s": now_s - executed_s,
            "send_s": self.send_s,
        }

    @property
    def draft_sources(self) -> frozenset[DraftSource]:
        """All configured draft sources, including disabled ones."""
        return self._speculator.all_sources

    def set_draft_sources(self, sources: Collection[DraftSource]) -> None:
        """Restrict drafting to these sources, for comparisons. Speculation that a fault turned off stays off."""
        assert self.draft_sources.issuperset(sources)
        self._speculator.sources = frozenset(sources)

    def close(self) -> None:
        """Write the blocks, and send the events, that wait for it; no method may be called afterwards."""
        if self._tier is not None:
            self._tier.tier.close(_CLOSE_S)
        if self._publisher is not None:
            self._publisher.close()

    def _save_pending(self) -> None:
        """Save the last blocks of sequences that have ended, since no step may follow soon."""
        if self._tier is not None and (moves := self._scheduler.take_moves()) is not None:
            self._tier.move(moves)

    def _collect_grammars(self) -> None:
        """Make sequences with compiled grammars schedulable, and fail those whose grammars were refused."""
        for sequence_id, refused in () if self._grammars is None else self._grammars.collect():
            self._scheduler.fail(sequence_id, refused.error, is_refused=True)

    def _grammar_stats(self) -> dict[str, Any]:
        if self._grammars is None:
            return {}
        tally = self._grammars.take_tally()
        return {
            "grammar_compile_s": {outcome.value: seconds for outcome, seconds in tally.compile_s.items()},
            "waiting_for_grammar": self._grammars.num_waiting,
            "grammar_cache_queries": tally.queries,
            "grammar_cache_hits": tally.hits,
            "grammar_cache_bytes": self._grammars.cache.num_bytes,
        }

    def _tier_stats(self) -> dict[str, Any]:
        if self._tier is None:
            return {}
        fields = {f"tier_{name}": value for name, value in dataclasses.asdict(self._tier.tier.take_stats()).items()}
        if (reads := self._scheduler.tier_reads) is not None:
            fields["tier_queried_tokens"], fields["tier_restored_tokens"] = reads.take_tokens()
        return fields

    def _draft(self) -> None:
        """Draft for the running sequences. If the speculator raises, log it and run the step without drafts."""
        try:
            self._speculator.draft(self._scheduler)
        except Exception:
            logger.exception("drafting failed")
            self._note_speculation_fault()
            for sequence in self._scheduler.running:
                self._scheduler.set_draft(sequence, [])

    def _learn(
        self, plan: StepPlan, result: StepResult, outputs: list[RequestOutput], step_s: float
    ) -> list[RequestOutput]:
        """Report the step to the speculator; return the outputs with the speculator's statistics added."""
        if not plan.items:
            return outputs
        try:
            return self._speculator.observe(plan, result, outputs, step_s)
        except Exception:
            logger.exception("learning from a step failed")
            self._note_speculation_fault()
            return outputs

    def _note_speculation_fault(self) -> None:
        self._speculator.record_fault()
        if self._speculator.is_off:
            logger.error("speculation is off from now on: it keeps failing")

    def _report_started(self, plan: StepPlan) -> None:
        if self._on_started is not None:
            started = [item.sequence for item in plan.items if not item.sequence.is_started]
            if started:
                self._on_started([sequence.id for sequence in started])
            for sequence in started:
                sequence.is_started = True


def _is_counted(plan: StepPlan) -> bool:
    """Whether the step serves any request whose service class is counted in metrics."""
    return any(item.sequence.service.counted_as is not CountedAs.NOTHING for item in plan.items)
