"""Short builders of requests, configs and ledger engines, and a scheduler that is stepped by hand."""

import itertools
import math
from collections import Counter, abc
from collections.abc import Callable
from typing import Any

from engine.adapters.service import AdapterService
from engine.config import EngineConfig, SchedulingPolicy
from engine.engine import Engine
from engine.grammar.compiler import GrammarCompiler
from engine.kv_tiers.tier import BlockTier
from engine.protocol import (
    AbortReason,
    AdapterRef,
    EngineRequest,
    FinishReason,
    RequestOutput,
    SamplingParams,
    ServiceClass,
    StepStats,
    ThinkingBudget,
)
from engine.protocol.kv_events import EventPublisher
from engine.scheduling.adapters.slots import Fill
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.fairness.service_rules import CountedAs
from engine.scheduling.kv.groups import KVGroup, peak_blocks
from engine.scheduling.kv.moves import AttachedTier
from engine.scheduling.kv.tier_options import TierOptions
from engine.scheduling.plan import StepPlan, StepResult
from engine.scheduling.scheduler import Scheduler
from engine.scheduling.sequence import Sequence, SequenceStatus
from engine.scheduling.steps.budget import StepBudget
from engine.speculation.speculator import Speculator
from tests.helpers.grammars import expected_output, sequence_grammar
from tests.helpers.ledger import (
    BLOCK_BYTES,
    EOS_ID,
    VOCAB_SIZE,
    LedgerRunner,
    LedgerStep,
    adapted_seed,
    allowed_ids,
    next_token,
)
from tests.helpers.memory_tier import MemoryTier


def make_request(
    id: str,
    prompt: list[int],
    *,
    max_tokens: int = 8,
    seed: int | None = 0,
    priority: int = 0,
    arrival_s: float = 0.0,
    deadline_s: float | None = None,
    start_by_s: float | None = None,
    service_class: ServiceClass = ServiceClass.INTERACTIVE,
    reports_progress: bool = False,
    cache_salt: str = "",
    tenant: str = "",
    tenant_weight: float = 1.0,
    grammar: str | None = None,
    thinking: ThinkingBudget | None = None,
    adapter: AdapterRef | None = None,
    prediction_ids: list[int] | None = None,
    tokens_per_output: int = 1,
    **sampling: Any,
) -> EngineRequest:
    return EngineRequest(
        id=id,
        prompt_ids=prompt,
        sampling=SamplingParams(max_tokens=max_tokens, seed=seed, **sampling),
        arrival_s=arrival_s,
        deadline_s=deadline_s,
        start_by_s=start_by_s,
        service_class=service_class,
        reports_progress=reports_progress,
        priority=priority,
        cache_salt=cache_salt,
        tenant=tenant,
        tenant_weight=tenant_weight,
        grammar=grammar,
        thinking=thinking,
        adapter=adapter,
        prediction_ids=prediction_ids or [],
        tokens_per_output=tokens_per_output,
    )


def make_adapter(name: str, version: int = 0) -> AdapterRef:
    return AdapterRef(name, f"/adapters/{name}", f"{name} {version}".encode())


def make_prompt(length: int, seed: int = 0) -> list[int]:
    """A reproducible prompt; two seeds share hardly any prefix."""
    prompt: list[int] = []
    while len(prompt) < length:
        prompt.append(next_token([*prompt[-8:], len(prompt)], seed + 1_000_003) % (VOCAB_SIZE - 1) + 1)
    return prompt


def make_engine(
    *,
    num_blocks: int = 64,
    block_size: int = 4,
    max_num_seqs: int = 64,
    max_num_batched_tokens: int = 64,
    max_model_len: int | None = None,
    policy: SchedulingPolicy = SchedulingPolicy.FCFS,
    enable_prefix_caching: bool = True,
    long_prefill_token_threshold: int = 0,
    windows: tuple[int | None, ...] = (None,),
    ratios: tuple[int, ...] = (1,),
    num_states: int = 0,
    speculator: Speculator | None = None,
    spec_audit_rate: float = 0.0,
    grammars: GrammarCompiler | None = None,
    adapters: AdapterService[Any, Any] | None = None,
    max_loras: int = 1,
    on_started: Callable[[list[str]], None] | None = None,
    tier: BlockTier | None = None,
    writes_through: bool = False,
    feeds: bool = False,
    publisher: EventPublisher | None = None,
) -> tuple[Engine, LedgerRunner]:
    """An engine over a ledger, which checks all invariants after each step."""
    groups = make_groups(block_size, windows, num_states, ratios)
    config = EngineConfig(
        max_model_len=max_model_len or longest_sequence(groups, num_blocks),
        max_num_seqs=min(max_num_seqs, max_num_batched_tokens),  # more are refused at start-up
        max_num_batched_tokens=max_num_batched_tokens,
        long_prefill_token_threshold=long_prefill_token_threshold,
        scheduling_policy=policy,
        block_size=block_size,
        enable_prefix_caching=enable_prefix_caching,
        check_invariants=True,
        spec_audit_rate=spec_audit_rate,
        enable_lora=adapters is not None,
        max_loras=max_loras,
        kv_events=None if publisher is None else "tcp://127.0.0.1:5557",
    )
    runner = LedgerRunner(num_blocks, groups, num_states, feeds=feeds)
    engine = Engine(
        config,
        runner,
        num_blocks=num_blocks,
        num_states=num_states,
        eos_token_ids=[EOS_ID],
        speculator=speculator,
        grammars=grammars,
        adapters=adapters,
        on_started=on_started,
        budget=None if tier is None else SlowBudget(max_num_batched_tokens),
        tier=None if tier is None else AttachedTier(tier, runner, writes_through=writes_through),
        publisher=publisher,
    )
    return engine, runner


class SlowBudget(StepBudget):
    """For which every read from a tier is faster than to compute anything."""

    def prefill_s(self, start: int, num_tokens: int) -> float:  # noqa: ARG002
        return math.inf


def expected_ids(request: EngineRequest) -> list[int]:
    """The tokens that a request must get under every schedule, worked out without an engine."""
    if request.grammar is not None:
        return expected_output(request)[0]
    sampling = request.sampling
    history = list(request.prompt_ids)
    output: list[int] = []
    stop_ids = {*sampling.stop_token_ids, *(() if sampling.ignore_eos else (EOS_ID,))}
    while len(output) < sampling.max_tokens:
        output.append(next_token(history + output, adapted_seed(request, sampling.seed or 0)))
        if output[-1] in stop_ids and len(output) > sampling.min_tokens:
            break
    return output


class Transcript:
    """All outputs of a run; asserts that each request gets exactly one terminal output, and nothing after it."""

    def __init__(self) -> None:
        self.ids: dict[str, list[int]] = {}
        self.finish_reasons: dict[str, FinishReason] = {}
        self.first: dict[str, RequestOutput] = {}
        self.last: dict[str, RequestOutput] = {}
        self.progress: dict[str, list[int]] = {}  # num_prompt_computed in each output that tells it

    def add(self, outputs: list[RequestOutput]) -> None:
        for output in outputs:
            assert output.id not in self.finish_reasons, f"{output.id} has an output after its terminal one"
            if output.num_prompt_computed is not None:
                self._add_progress(output.id, output.num_prompt_computed)
                if not output.new_ids and output.finish_reason is None:
                    continue
            assert output.new_ids or output.finish_reason is not None, f"an output without news: {output}"
            self.ids.setdefault(output.id, []).extend(output.new_ids)
            self.first.setdefault(output.id, output)
            self.last[output.id] = output
            if output.finish_reason is not None:
                self.finish_reasons[output.id] = output.finish_reason

    def _add_progress(self, request_id: str, num_computed: int) -> None:
        steps = self.progress.setdefault(request_id, [])
        assert not self.ids.get(request_id), f"progress of {request_id} after its first token"
        assert not steps or num_computed >= steps[-1], f"progress of {request_id} goes back"
        steps.append(num_computed)


class SchedulerRun:
    """A scheduler over a ledger, stepped by hand; `check`s everything after each step.

    `propose` returns the draft of a sequence; None is no speculation. fill_steps: how many steps later an adapter is in
    its slot. max_read_blocks: bound of the blocks that are read from the tier and not used yet. read_steps: how many
    steps lie between the ends of a late tier's reads. prefill_s: estimated time of computing any tokens. feeds: steps
    may be planned ahead.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        propose: Callable[[Sequence], list[int]] | None = None,
        *,
        fill_steps: int = 0,
        budget: StepBudget | None = None,
        tier: MemoryTier | None = None,
        max_read_blocks: int = 100,
        read_steps: int = 0,
        prefill_s: float = math.inf,
        feeds: bool = False,
    ) -> None:
        self.now_s = 100.0  # tests set it
        self.tier = tier
        self._read_steps = read_steps
        options = None
        if tier is not None:
            sizes = (BLOCK_BYTES,) * len(config.kv_groups)
            options = TierOptions(tier, sizes, max_read_blocks * BLOCK_BYTES, prefill_s=lambda _start, _num: prefill_s)
        self.scheduler = Scheduler(config, budget=budget, tier=options, clock=lambda: self.now_s)
        self.runner = LedgerRunner(config.num_blocks, config.kv_groups, config.num_states, feeds=feeds)
        self._ahead: tuple[StepPlan, LedgerStep] | None = None
        self.transcript = Transcript()
        self.plans: list[list[tuple[str, int, int]]] = []  # of each step: (id, num_new, num_draft)
        self.stats: list[StepStats] = []
        self._propose = propose
        self._fill_steps = fill_steps
        self._fills: list[tuple[int, Fill]] = []  # with the number of the step before which each is done
        self.lost_digests: set[bytes] = set()  # of adapters that cannot be read any more

    def step(self, *, abort_meanwhile: str | None = None) -> None:
        """One step, in which a request may be aborted before the step is collected.

        Asserts progress: if there is work, it computes or ends something, or has an adapter put into a slot.
        """
        self._fill()
        if self.tier is not None and (not self.scheduler.has_work or len(self.plans) % (self._read_steps + 1) == 0):
            self.tier.finish()
        had_work, num_ended = self.scheduler.has_work, len(self.transcript.finish_reasons)
        running = self.scheduler.running
        num_filling = len(self._fills)
        ahead, self._ahead = self._ahead, None
        plan = self.scheduler.schedule() if ahead is None else ahead[0]
        self._take_fills()
        if running:
            self._check_first(running[0], plan)
        self.plans.append([(item.sequence.id, item.num_new, item.num_draft) for item in plan.items])
        is_withdrawn = False
        if ahead is None and not self._move(plan):
            self.scheduler.withdraw(plan, is_loaded=False)
            plan, is_withdrawn = StepPlan([]), True
        pending = None if not plan.items else self.runner.launch(plan) if ahead is None else ahead[1]
        if pending is not None:
            self._launch_ahead(pending)
        live = [item for item in plan.items if item.sequence.status is not SequenceStatus.FINISHED]
        if abort_meanwhile is not None:
            self.scheduler.abort(abort_meanwhile, AbortReason.CLIENT_GONE)
        result = StepResult([]) if pending is None else self.runner.collect(pending)
        outputs, stats = self.scheduler.update(plan, result), self.scheduler.take_stats()
        self.transcript.add(outputs)
        self.stats.append(stats)
        has_progress = plan.items or len(self.transcript.finish_reasons) > num_ended or num_filling < len(self._fills)
        assert has_progress or is_withdrawn or not had_work or not self.scheduler.has_work, "no progress"
        counted = Counter[CountedAs]()
        for item in live:
            counted[item.sequence.service.counted_as] += item.num_new
        assert stats.prefill_tokens + stats.decode_tokens == counted[CountedAs.CLIENTS]
        assert stats.batch_prefill_tokens + stats.batch_decode_tokens == counted[CountedAs.BATCH]
        assert stats.num_computed == counted[CountedAs.CLIENTS] + counted[CountedAs.BATCH]
        if self._propose is not None and self._ahead is None:
            self._draft(self._propose)
        self.scheduler.check()

    def _move(self, plan: StepPlan) -> bool:
        if plan.moves is None:
            return True
        assert self.tier is not None
        return AttachedTier(self.tier, self.runner).move(plan.moves)

    def _launch_ahead(self, pending: LedgerStep) -> None:
        if self.runner.can_feed(pending) and (plan := self.scheduler.schedule_ahead(pending.plan)) is not None:
            assert self._move(plan), "a plan ahead loads nothing"
            self._ahead = plan, self.runner.launch(plan)

    def _take_fills(self) -> None:
        if self.scheduler.adapters is not None:
            done = len(self.plans) + 1 + self._fill_steps
            self._fills += [(done, fill) for fill in self.scheduler.adapters.take_fills()]

    def _fill(self) -> None:
        """Put adapters into their slots whose time has come; all of them where there is nothing else to do."""
        if self.scheduler.adapters is None:
            return
        self._take_fills()
        due = [fill for at, fill in self._fills if at <= len(self.plans) or not self.scheduler.has_work]
        self._fills = [(at, fill) for at, fill in self._fills if fill not in due]
        for fill in due:
            if fill.adapter.digest in self.lost_digests:
                for sequence in self.scheduler.adapters.failed(fill.slot):
                    self.scheduler.fail(sequence.id, "the adapter is lost")
            else:
                self.runner.fill(fill.slot, fill.adapter.digest)
                self.scheduler.adapters.filled(fill.slot)

    def _check_first(self, first: Sequence, plan: StepPlan) -> None:
        """The first in the order continues, unless it has ended or yielded to one that comes before it."""
        if first.status is SequenceStatus.RUNNING:
            first = self.scheduler.running[0]
            assert any(item.sequence is first for item in plan.items), f"{first.id} gets nothing of the step"
        elif first.status is not SequenceStatus.FINISHED and not self._fills:  # else its adapter may have lost the slot
            assert self.scheduler.running[0].order < first.order, f"{first.id} was preempted, the first in the order"

    def _draft(self, propose: Callable[[Sequence], list[int]]) -> None:
        """Request blocks, then set as many tokens as were granted, like the speculator."""
        drafting = [s for s in self.scheduler.running if s.num_pending == 1 and s.num_remaining > 1]
        drafts = [propose(s)[: s.num_remaining - 1] for s in drafting]
        granted = self.scheduler.grant_drafts([(s, len(ids)) for s, ids in zip(drafting, drafts, strict=True)])
        for sequence, draft, num_tokens in zip(drafting, drafts, granted, strict=True):
            self.scheduler.set_draft(sequence, draft[:num_tokens])

    def finish(self, max_steps: int = 5000) -> Transcript:
        """Step until nothing is left."""
        for _ in range(max_steps):
            is_filling = self.scheduler.adapters is not None and self.scheduler.adapters.is_filling
            is_reading = self.scheduler.tier_reads is not None and self.scheduler.tier_reads.is_reading
            if not self.scheduler.has_work and not is_filling and not is_reading and self._ahead is None:
                return self.transcript
            self.step()
        raise AssertionError(f"not finished after {max_steps} steps")

    def add(self, request: EngineRequest) -> None:
        """With its grammar ready."""
        self.scheduler.add(request, None if request.grammar is None else sequence_grammar(request.grammar))

    def run(self, requests: abc.Iterable[EngineRequest]) -> Transcript:
        for request in requests:
            self.add(request)
        return self.finish()


def make_config(
    *,
    num_blocks: int = 64,
    block_size: int = 4,
    max_num_seqs: int = 64,
    max_num_batched_tokens: int = 64,
    windows: tuple[int | None, ...] = (None,),
    ratios: tuple[int, ...] = (1,),
    num_states: int = 0,
    **rest: Any,
) -> SchedulerConfig:
    """windows, ratios: of each KV group, as make_groups takes them. num_states: of a group of recurrent states."""
    groups = make_groups(block_size, windows, num_states, ratios)
    return SchedulerConfig(
        num_blocks=num_blocks,
        num_states=num_states,
        kv_groups=groups,
        max_model_len=longest_sequence(groups, num_blocks),
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        eos_token_ids=frozenset([EOS_ID]),
        **rest,
    )


def make_groups(
    block_size: int, windows: tuple[int | None, ...], num_states: int, ratios: tuple[int, ...] = (1,)
) -> tuple[KVGroup, ...]:
    """windows: of each KV group; None for full attention, -7 for chunks of 7. num_states: 0 for no recurrent states.

    ratios: the groups' blocks relative to `block_size`, repeated for further groups.
    """
    sizes = [block_size * ratio for ratio, _ in zip(itertools.cycle(ratios), windows, strict=False)]
    states = (KVGroup(math.lcm(*sizes), is_state=True),) if num_states else ()
    seeing = (
        KVGroup(size, abs(window) if window else None, is_chunked=(window or 0) < 0)
        for size, window in zip(sizes, windows, strict=True)
    )
    return (*seeing, *states)


def longest_sequence(groups: tuple[KVGroup, ...], num_blocks: int) -> int:
    """The most tokens of one sequence that a pool can hold, or a hundred blocks of them if it holds any number."""
    lengths = range(groups[0].block_size, 100 * groups[0].block_size + 1)
    return max((length for length in lengths if peak_blocks(groups, length) <= num_blocks), default=0)


def half_right_draft(sequence: Sequence) -> list[int]:
    """Up to four tokens, the first few of them (a reproducible number) those that the ledger will say."""
    tokens, seed = sequence.tokens, adapted_seed(sequence.request, sequence.seed)
    choice = next_token(tokens, seed + 77)
    draft: list[int] = []
    for index in range(choice % 5):
        allowed = _allowed_after(sequence, draft)
        if not allowed:
            break
        right = next_token(tokens + draft, seed, allowed)
        draft.append(right if index < choice // 5 % 4 else allowed[(allowed.index(right) + 1) % len(allowed)])
    return draft


def _allowed_after(sequence: Sequence, draft: list[int]) -> abc.Sequence[int]:
    if sequence.grammar is None:
        return range(VOCAB_SIZE)
    with sequence.grammar.following(draft) as matches:
        return allowed_ids(sequence.grammar) if matches else []
