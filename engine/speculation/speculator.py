"""Speculator: sets the drafts of each step before it is scheduled, and learns from its outcome."""

import time
from collections.abc import Collection, Iterable
from typing import Any

from engine.protocol import RequestOutput
from engine.scheduling.plan import PlanItem, StepPlan, StepResult
from engine.scheduling.scheduler import Scheduler
from engine.scheduling.sequence import Sequence
from engine.speculation.acceptance import Acceptance
from engine.speculation.candidates import DraftCandidates
from engine.speculation.catch_up import CatchUp
from engine.speculation.cost_model import CostModel
from engine.speculation.fault_log import FaultLog
from engine.speculation.planner import DraftPlanner, StepLoad
from engine.speculation.prediction import PredictionProposer
from engine.speculation.proposers import DraftCandidate, Drafter, DraftSource, LookupProposer
from engine.speculation.report import SpeculationReport


class Speculator:
    """Runs speculative decoding. Calls alternate: `draft` before the scheduler plans, `observe` after it has processed
    the result.

    Drafts follow known tokens, so a step that may have drafts is planned only when the step before it has been
    collected. `draft` therefore reads the sequences themselves; `observe`, which runs after they have advanced, reads
    the plan.
    """

    def __init__(
        self,
        max_tokens: int,
        *,
        lookups: Iterable[LookupProposer] = (),
        drafter: Drafter | None = None,
        sources: Collection[DraftSource] | None = None,
    ) -> None:
        """max_tokens: maximum length of a draft. sources: the enabled sources among predictions, the `lookups` and
        the draft model; default all."""
        self._predictions = PredictionProposer()
        lookups = [self._predictions, *lookups]
        self.all_sources = frozenset(
            [*(lookup.source for lookup in lookups), *([] if drafter is None else [DraftSource.DRAFT_MODEL])]
        )
        self.sources = self.all_sources if sources is None else frozenset(sources)
        self._drafter = drafter
        self._costs = CostModel(0.0 if drafter is None else drafter.relative_size)
        self._acceptance = Acceptance()
        self._faults = FaultLog()
        self._planner = DraftPlanner(self._acceptance, self._costs)
        self._candidates = DraftCandidates(max_tokens, lookups, drafter, self._planner, self._faults)
        self._catch_up = CatchUp(drafter, self._planner, self._faults)
        self._report = SpeculationReport()
        self._draft_sources: dict[str, DraftSource] = {}  # of the drafts that the next step verifies, by sequence
        self._draft_s = 0.0
        self._has_given_up = False

    @classmethod
    def without_drafts(cls) -> "Speculator":
        """Make a speculator for a model that takes no drafts, not even predictions."""
        speculator = cls(1)
        speculator.all_sources = speculator.sources = frozenset()
        return speculator

    @property
    def is_off(self) -> bool:
        """Whether speculation is off for good, after exceptions or `give_up`."""
        return self._has_given_up or self._faults.is_off

    def give_up(self) -> None:
        self._has_given_up = True

    # --- before a step ------------------------------------------------------------------------------------------------

    def draft(self, scheduler: Scheduler) -> None:
        """Set drafts for the running sequences for which that pays. If this raises, call `record_fault`."""
        self.begin_step()
        if self.is_off or not self.sources:
            return
        start_s = time.perf_counter()
        running = scheduler.running
        candidates = self._candidates.find(running, self.sources)
        if candidates:
            load = StepLoad.of(running, scheduler.max_num_batched_tokens)
            if self._planner.knows_plain(load):
                self._draft(scheduler, candidates, load)
        self._draft_s = time.perf_counter() - start_s

    def begin_step(self) -> None:
        """Begin a step without drafts; call in place of `draft`."""
        self._draft_sources = {}
        self._draft_s = 0.0
        self._report.begin_step()
        self._candidates.begin_step()

    def may_draft(self, scheduler: Scheduler) -> bool:
        """Whether the next step may have drafts, so that it must be planned by `draft`, with all tokens known."""
        if self.is_off or not self.sources:
            return False
        return self.sources != {DraftSource.PREDICTION} or any(
            each.request.prediction_ids for each in scheduler.running
        )

    def _draft(self, scheduler: Scheduler, candidates: list[DraftCandidate], load: StepLoad) -> None:
        self._catch_up.compute(candidates, load, scheduler.most_batched_tokens)
        drafting_now = [each.fallback if each.num_behind else each for each in candidates]
        ready = [candidate for candidate in drafting_now if candidate is not None]
        plan = self._planner.plan(ready, load)
        self._report.set_estimate(self._planner.speedup(plan, load))
        chosen = []
        for candidate, length in zip(ready, plan.lengths, strict=True):
            if length:
                chosen.append((candidate, length))
            else:
                self._acceptance.observe_idle(candidate.sequence.id, candidate.source)
        if not chosen:
            self._acceptance.observe_idle_step()
            self._costs.passes.age()  # their cost may have changed
            return
        modeled: list[tuple[Sequence, int]] = []
        granted = scheduler.grant_drafts([(candidate.sequence, length) for candidate, length in chosen])
        for (candidate, _), length in zip(chosen, granted, strict=True):
            if candidate.source is DraftSource.DRAFT_MODEL and length:
                modeled.append((candidate.sequence, length))
            else:
                self._set(scheduler, candidate.sequence, candidate.source, candidate.token_ids[:length])
        if modeled:
            self._run_drafter(scheduler, modeled, self._planner.min_path_prob(plan, load, len(modeled)))

    def _run_drafter(self, scheduler: Scheduler, lengths: list[tuple[Sequence, int]], min_path_prob: float) -> None:
        assert self._drafter is not None
        with self._faults.suspecting([sequence for sequence, _ in lengths]):
            drafts, pass_s = self._drafter.draft(lengths, min_path_prob=min_path_prob)
        if pass_s is not None:
            self._costs.passes.observe(len(drafts), len(drafts), pass_s)
        for (sequence, length), token_ids in zip(lengths, drafts, strict=True):
            self._acceptance.observe_length(length, len(token_ids))
            self._set(scheduler, sequence, DraftSource.DRAFT_MODEL, token_ids)

    def _set(self, scheduler: Scheduler, sequence: Sequence, source: DraftSource, token_ids: list[int]) -> None:
        scheduler.set_draft(sequence, token_ids)
        self._draft_sources[sequence.id] = source

    # --- after a step -------------------------------------------------------------------------------------------------

    def observe(
        self, plan: StepPlan, result: StepResult, outputs: list[RequestOutput], step_s: float
    ) -> list[RequestOutput]:
        """Update the estimates after a step. Return its outputs, with `num_predicted` set for requests with a
        prediction.

        outputs: from `Scheduler.update`. step_s: seconds of the step without drafting.
        """
        if any(item.num_draft for item in plan.items):
            num_new = {output.id: len(output.new_ids) for output in outputs}
            for item, row in zip(plan.items, result.rows, strict=True):
                if item.num_draft and row.token_ids:
                    self._observe_verified(item, len(row.token_ids) - 1, num_new.get(item.sequence.id, 0))
        if plan.is_decoding:
            self._observe_decoding(plan, result, outputs, step_s)
        elif result.is_representative:
            self._costs.steps.observe_prefill(plan.num_tokens, step_s)
        return self._predictions.count_matches(plan, outputs)

    def _observe_verified(self, item: PlanItem, num_accepted: int, num_new: int) -> None:
        """Record a verified draft. num_new: number of tokens that the sequence got, fewer than were accepted if it
        ended, and 0 if it was aborted."""
        sequence = item.sequence
        self._acceptance.observe(sequence.id, self._draft_sources[sequence.id], item.num_draft, num_accepted)
        if num_new:
            self._report.count_draft(item.num_draft, min(num_accepted, num_new))
        self._faults.reset_count()

    def _observe_decoding(
        self, plan: StepPlan, result: StepResult, outputs: list[RequestOutput], step_s: float
    ) -> None:
        num_sequences = len(plan.items)
        if result.is_representative:
            self._costs.steps.observe(num_sequences, plan.num_tokens, step_s)
        if not all(item.sequence.service.is_counted for item in plan.items):
            return
        self._report.count_decoding_step(
            num_sequences,
            sum(len(output.new_ids) for output in outputs),
            has_drafts=any(item.num_draft for item in plan.items),
            plain_s=self._costs.steps.mean(num_sequences, num_sequences),
            step_s=step_s,
            drafting_s=self._draft_s,
        )

    def record_fault(self) -> None:
        """Count an exception that the speculator raised; after several, speculation is switched off (FaultLog)."""
        self._draft_sources = {}
        self._faults.record()

    def step_stats(self) -> dict[str, Any]:
        """Return the StepStats fields of the step since the last `draft`."""
        return self._report.stats()

    def release(self, sequence: Sequence) -> None:
        self._candidates.release(sequence)
        self._acceptance.release(sequence.id)
        self._faults.release(sequence)
        if sequence.num_output:
            self._catch_up.observe_end(sequence.num_output)
