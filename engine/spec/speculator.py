"""Speculator: before each step it decides who drafts how many tokens, and after it learns what came of them."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from engine.plan import StepPlan, StepResult
from engine.protocol import RequestOutput
from engine.sequence import Sequence
from engine.spec.acceptance import Acceptance
from engine.spec.base import Lookup, Proposal, Source
from engine.spec.lengths import Candidate, Choice, choose_lengths
from engine.spec.prediction import PredictionProposer
from engine.spec.step_times import StepTimes

_PREFILL_ROWS = 64  # a step with so many is a measure of arithmetic
_MEMORY = 0.98  # of the realised speed-up, from step to step


class Drafter(Protocol):
    """A draft model, as the speculator sees it."""

    def begin_step(self) -> None:
        """Forget the last step's drafts."""

    def draft(self, lengths: list[tuple[Sequence, int]], spare_tokens: int) -> list[list[int]]:
        """The drafts of these sequences; [] for one whose context it had first to catch up with, which it did as far
        as `spare_tokens` went."""

    @property
    def relative_size(self) -> float:
        """Bytes that a pass reads, over those of the target."""

    @property
    def seconds_per_pass(self) -> float | None:
        """Of the last `draft`, catching up not counted; None if nothing was drafted."""

    def release(self, sequence: Sequence) -> None: ...


class DraftScheduler(Protocol):
    """What the speculator asks of the scheduler."""

    @property
    def running(self) -> list[Sequence]: ...

    @property
    def max_num_batched_tokens(self) -> int: ...

    def grant_drafts(self, wanted: list[tuple[Sequence, int]]) -> list[int]: ...

    def set_draft(self, sequence: Sequence, token_ids: list[int]) -> None: ...


@dataclass(slots=True)
class _Tally:
    """What speculation did in one step; names as in StepStats."""

    num_drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    accepted_by_position: list[int] = field(default_factory=list)
    draft_length: float | None = None
    estimated_speedup: float | None = None
    realised_speedup: float | None = None


class Speculator:
    """Calls alternate: `draft` before the scheduler plans, `observe` with the plan and its result before `update`."""

    def __init__(self, max_tokens: int, *, lookups: Iterable[Lookup] = (), drafter: Drafter | None = None) -> None:
        """max_tokens: of a draft. A request's prediction is asked first, then `lookups`; the draft model serves those
        sequences for which none finds anything."""
        self._predictions = PredictionProposer()
        self._lookups: list[Lookup] = [self._predictions, *lookups]
        self._drafter = drafter
        self._max_tokens = max_tokens
        self._times = StepTimes()
        self._pass_times = StepTimes()
        self._acceptance = Acceptance()
        self._sources: dict[str, Source] = {}  # of the drafts that the next step verifies
        self._draft_s = 0.0
        self._tally = _Tally()
        self._plain_s_total = self._real_s_total = 0.0
        self.is_off = False

    # --- before a step ------------------------------------------------------------------------------------------------

    def draft(self, scheduler: DraftScheduler) -> None:
        """Set the drafts of those running sequences for which it pays."""
        self._sources = {}
        self._tally = _Tally()
        self._draft_s = 0.0
        if self._drafter is not None:
            self._drafter.begin_step()
        if self.is_off:
            return
        running = scheduler.running
        start_s = time.perf_counter()
        proposals = self._propose(running)
        num_pending = sum(sequence.num_pending for sequence in running)
        if not proposals or not self._knows_plain(running, num_pending):
            return
        choice = self._choose(proposals, running, scheduler.max_num_batched_tokens)
        self._tally.estimated_speedup = choice.speedup
        spare = max(0, scheduler.max_num_batched_tokens - num_pending)
        drafting = [
            (sequence, proposal, length)
            for (sequence, proposal), length in zip(proposals, choice.lengths, strict=True)
            if length
        ]
        granted = scheduler.grant_drafts([(sequence, length) for sequence, _, length in drafting])
        modelled: list[tuple[Sequence, int]] = []
        for (sequence, proposal, _), room in zip(drafting, granted, strict=True):
            if proposal.source is Source.DRAFT_MODEL and room:
                modelled.append((sequence, room))
            else:
                self._set(scheduler, sequence, proposal.source, proposal.token_ids[:room])
        if modelled:
            self._run_drafter(scheduler, modelled, spare)
        for (sequence, _), length in zip(proposals, choice.lengths, strict=True):
            if length == 0:
                self._acceptance.observe_idle(sequence.id)
        if not drafting:
            self._acceptance.observe_idle_step()
            self._pass_times.age()
        self._draft_s = time.perf_counter() - start_s

    def _propose(self, running: list[Sequence]) -> list[tuple[Sequence, Proposal]]:
        """What could be drafted; a draft model's tokens are not known yet, only their number."""
        proposals = []
        for sequence in running:
            if sequence.num_pending != 1 or sequence.request.is_replay:
                continue
            most = min(self._max_tokens, sequence.num_remaining - 1)
            if most <= 0:
                continue
            proposal = self._look_up(sequence, most)
            if proposal is None and self._drafter is not None:
                proposal = Proposal(Source.DRAFT_MODEL, [0] * most)
            if proposal is not None:
                proposals.append((sequence, proposal))
        return proposals

    def _knows_plain(self, running: list[Sequence], num_pending: int) -> bool:
        """Whether it is known how long this step takes without drafts; else it is measured now."""
        is_decoding = num_pending == len(running)
        return not is_decoding or self._times.knows(len(running), num_pending)

    def _look_up(self, sequence: Sequence, most: int) -> Proposal | None:
        for lookup in self._lookups:
            if token_ids := lookup.propose(sequence, most):
                return Proposal(lookup.source, token_ids)
        return None

    def _choose(
        self, proposals: list[tuple[Sequence, Proposal]], running: list[Sequence], max_num_batched_tokens: int
    ) -> Choice:
        decoding = sum(sequence.num_pending == 1 for sequence in running)
        num_pending = sum(sequence.num_pending for sequence in running)
        step_s = self._step_estimate(len(running), num_pending)
        return choose_lengths(
            [
                Candidate(
                    self._acceptance.chances(sequence.id, proposal.source, len(proposal.token_ids)),
                    needs_passes=proposal.source is Source.DRAFT_MODEL,
                )
                for sequence, proposal in proposals
            ],
            num_decoding=decoding,
            row_budget=max(0, max_num_batched_tokens - num_pending),
            step_s=step_s,
            pass_s=lambda num_drafting: self._pass_estimate(num_drafting, step_s(0)),
        )

    def _pass_estimate(self, num_drafting: int, plain_s: float) -> float:
        """Seconds of a pass of the draft model; until it has been measured, its share of the model's size tells."""
        if self._pass_times.knows(num_drafting, num_drafting):
            return self._pass_times.estimate(num_drafting, num_drafting)
        return plain_s * (0.0 if self._drafter is None else self._drafter.relative_size)

    def _step_estimate(self, num_sequences: int, num_rows: int) -> Callable[[int], float]:
        return lambda num_drafted: self._times.estimate(num_sequences, num_rows + num_drafted)

    def _run_drafter(self, scheduler: DraftScheduler, lengths: list[tuple[Sequence, int]], spare: int) -> None:
        assert self._drafter is not None
        drafts = self._drafter.draft(lengths, spare)
        num_drafting = sum(bool(token_ids) for token_ids in drafts)
        if (seconds := self._drafter.seconds_per_pass) is not None:
            self._pass_times.observe(num_drafting, num_drafting, seconds)
        for (sequence, _), token_ids in zip(lengths, drafts, strict=True):
            self._set(scheduler, sequence, Source.DRAFT_MODEL, token_ids)

    def _set(self, scheduler: DraftScheduler, sequence: Sequence, source: Source, token_ids: list[int]) -> None:
        scheduler.set_draft(sequence, token_ids)
        self._sources[sequence.id] = source

    # --- after it -----------------------------------------------------------------------------------------------------

    def observe(self, plan: StepPlan, result: StepResult, step_s: float) -> None:
        """Learn from a step before `update` takes it in. step_s: without the drafting."""
        num_emitted = 0
        for item, row in zip(plan.items, result.rows, strict=True):
            num_emitted += len(row.token_ids)
            if not item.num_draft or not row.token_ids:
                continue
            num_accepted = len(row.token_ids) - 1
            self._acceptance.observe(item.sequence.id, self._sources[item.sequence.id], item.num_draft, num_accepted)
            item.sequence.num_drafted += item.num_draft
            item.sequence.num_draft_accepted += num_accepted
            self._count(item.num_draft, num_accepted)
        is_decoding = all(item.num_new - item.num_draft == 1 and item.needs_logits for item in plan.items)
        if is_decoding:
            self._times.observe(len(plan.items), plan.num_tokens, step_s)
            self._observe_speedup(len(plan.items), num_emitted, step_s)
        elif plan.num_tokens >= _PREFILL_ROWS:
            self._times.observe_prefill(plan.num_tokens, step_s)

    def _count(self, num_drafted: int, num_accepted: int) -> None:
        tally = self._tally
        tally.num_drafts += 1
        tally.draft_tokens += num_drafted
        tally.accepted_tokens += num_accepted
        tally.accepted_by_position += [0] * (num_accepted - len(tally.accepted_by_position))
        for place in range(num_accepted):
            tally.accepted_by_position[place] += 1

    def _observe_speedup(self, num_sequences: int, num_emitted: int, step_s: float) -> None:
        """Seconds that the emitted tokens would have taken one by one, over those that they took."""
        plain_s = self._times.estimate(num_sequences, num_sequences)
        self._plain_s_total = self._plain_s_total * _MEMORY + plain_s * num_emitted / num_sequences
        self._real_s_total = self._real_s_total * _MEMORY + step_s + self._draft_s
        self._tally.realised_speedup = self._plain_s_total / max(1e-9, self._real_s_total)
        self._tally.draft_length = self._tally.draft_tokens / num_sequences

    def annotate(self, plan: StepPlan, outputs: list[RequestOutput]) -> list[RequestOutput]:
        """The outputs of `update`, those of requests with a prediction with how much of it they have had."""
        predicted = {
            item.sequence.id: self._predictions.num_found(item.sequence)
            for item in plan.items
            if item.sequence.request.prediction_ids and item.needs_logits
        }
        if not predicted:
            return outputs
        return [
            msgspec.structs.replace(output, num_predicted=predicted[output.id]) if output.id in predicted else output
            for output in outputs
        ]

    def step_stats(self) -> dict[str, Any]:
        """Fields of StepStats, of the step since the last `draft`."""
        return {name: getattr(self._tally, name) for name in _Tally.__slots__}

    def release(self, sequence: Sequence) -> None:
        for lookup in self._lookups:
            lookup.release(sequence)
        if self._drafter is not None:
            self._drafter.release(sequence)
        self._acceptance.release(sequence.id)
