"""Speculator: before each step it decides who drafts how many tokens, and after it learns what came of them."""

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from engine.protocol import RequestOutput
from engine.scheduling.plan import PlanItem, StepPlan, StepResult
from engine.scheduling.sequence import Sequence
from engine.speculation.acceptance import Acceptance
from engine.speculation.candidates import Option, Options
from engine.speculation.catch_up import CatchUp, chunks
from engine.speculation.cost_model import Costs
from engine.speculation.fault_log import FaultBook
from engine.speculation.lengths import Candidate, Choice, choose_lengths
from engine.speculation.prediction import PredictionProposer
from engine.speculation.proposers import Drafter, Lookup, Source
from engine.speculation.report import SpecReport


class DraftScheduler(Protocol):
    """What the speculator asks of the scheduler."""

    @property
    def running(self) -> list[Sequence]: ...

    @property
    def max_num_batched_tokens(self) -> int: ...

    @property
    def most_batched_tokens(self) -> int: ...

    def grant_drafts(self, requested: list[tuple[Sequence, int]]) -> list[int]: ...

    def set_draft(self, sequence: Sequence, token_ids: list[int]) -> None: ...


@dataclass(frozen=True, slots=True)
class Load:
    """The step without drafts. num_spare: tokens that its budget leaves."""

    num_sequences: int
    num_decoding: int
    num_rows: int
    num_spare: int

    @classmethod
    def of(cls, running: list[Sequence], max_num_batched_tokens: int) -> "Load":
        num_rows = sum(sequence.num_pending for sequence in running)
        return cls(
            num_sequences=len(running),
            num_decoding=sum(sequence.num_pending == 1 for sequence in running),
            num_rows=num_rows,
            num_spare=max(0, max_num_batched_tokens - num_rows),
        )


class Speculator:
    """Calls alternate: `draft` before the scheduler plans, `observe` when it has taken the result in."""

    def __init__(
        self,
        max_tokens: int,
        *,
        lookups: Iterable[Lookup] = (),
        drafter: Drafter | None = None,
        sources: Collection[Source] | None = None,
    ) -> None:
        """max_tokens: of a draft. sources: which of a request's prediction, the `lookups` and the draft model compete
        for each draft; all by default."""
        self._predictions = PredictionProposer()
        lookups = [self._predictions, *lookups]
        self.all_sources = frozenset(
            [*(lookup.source for lookup in lookups), *([] if drafter is None else [Source.DRAFT_MODEL])]
        )
        self.sources = self.all_sources if sources is None else frozenset(sources)
        self._drafter = drafter
        self._costs = Costs(0.0 if drafter is None else drafter.relative_size)
        self._acceptance = Acceptance()
        self._faults = FaultBook()
        self._options = Options(
            max_tokens,
            lookups,
            drafter,
            acceptance=self._acceptance,
            costs=self._costs,
            faults=self._faults,
        )
        self._catch_up = CatchUp()
        self._report = SpecReport()
        self._sources: dict[str, Source] = {}  # of the drafts that the next step verifies
        self._draft_s = 0.0
        self._has_disagreed = False

    @property
    def is_off(self) -> bool:
        """For good, by faults or `give_up`."""
        return self._has_disagreed or self._faults.is_off

    def give_up(self) -> None:
        """Never draft again."""
        self._has_disagreed = True

    # --- before a step ------------------------------------------------------------------------------------------------

    def draft(self, scheduler: DraftScheduler) -> None:
        """Set the drafts of those running sequences for which it pays. If it raises, `take_fault` must follow."""
        self._sources = {}
        self._draft_s = 0.0
        self._report.begin_step()
        self._options.begin_step()
        if self.is_off or not self.sources:
            return
        start_s = time.perf_counter()
        running = scheduler.running
        options = self._options.of(running, self.sources)
        if options:
            load = Load.of(running, scheduler.max_num_batched_tokens)
            if self._knows_plain(load):
                self._draft(scheduler, options, load)
        self._draft_s = time.perf_counter() - start_s

    def _draft(self, scheduler: DraftScheduler, options: list[Option], load: Load) -> None:
        self._compute_context(options, load, scheduler.most_batched_tokens)
        ready = [own for option in options if (own := option.instead if option.lag else option) is not None]
        choice = self._choose(ready, load)
        self._report.foresee(self._speedup(choice, load))
        chosen = []
        for option, length in zip(ready, choice.lengths, strict=True):
            if length:
                chosen.append((option, length))
            else:
                self._acceptance.observe_idle(option.sequence.id, option.source)
        if not chosen:
            self._acceptance.observe_idle_step()
            self._costs.age_passes()
            return
        modeled: list[tuple[Sequence, int]] = []
        granted = scheduler.grant_drafts([(option.sequence, length) for option, length in chosen])
        for (option, _), room in zip(chosen, granted, strict=True):
            if option.source is Source.DRAFT_MODEL and room:
                modeled.append((option.sequence, room))
            else:
                self._set(scheduler, option.sequence, option.source, option.token_ids[:room])
        if modeled:
            self._run_drafter(scheduler, modeled, self._least_reach(choice, load, len(modeled)))

    def _knows_plain(self, load: Load) -> bool:
        """Whether it is known how long this step takes without drafts; else it is measured now."""
        return load.num_decoding < load.num_sequences or self._costs.knows_plain(load.num_sequences)

    def _choose(self, options: list[Option], load: Load) -> Choice:
        plain_s = self._costs.step_s(load.num_sequences, load.num_rows)
        return choose_lengths(
            [
                Candidate(
                    self._acceptance.chances(option.sequence.id, option.source, len(option.token_ids)),
                    self._acceptance.going(option.source, len(option.token_ids)),
                    needs_passes=option.source is Source.DRAFT_MODEL,
                )
                for option in options
            ],
            num_decoding=load.num_decoding,
            row_budget=load.num_spare,
            step_s=lambda num_drafted: self._costs.step_s(load.num_sequences, load.num_rows + num_drafted),
            pass_s=lambda num_drafting: self._costs.pass_s(num_drafting, plain_s),
        )

    def _speedup(self, choice: Choice, load: Load) -> float:
        """Estimated, against no drafts at all."""
        if choice.tokens_per_s is None:
            return 1.0
        return choice.tokens_per_s * self._costs.mean_step_s(load.num_sequences, load.num_rows) / load.num_decoding

    # --- the draft model ----------------------------------------------------------------------------------------------

    def _compute_context(self, options: list[Option], load: Load, most_tokens: int) -> None:
        """Let the draft model catch up with sequences for which that pays, by at most so many tokens in each step."""
        lagging = [option for option in options if option.lag]
        if not lagging:
            return
        assert self._drafter is not None
        choice = self._choose(options, load)
        speedup = self._speedup(choice, load)
        worthwhile = []
        for option, length in zip(options, choice.lengths, strict=True):
            if option.lag and length == 0:
                self._acceptance.observe_idle(option.sequence.id, option.source)
            elif option.lag and self._is_worthwhile(option, speedup, load):
                worthwhile.append((option.sequence, option.lag))
        taken = chunks(
            worthwhile,
            self._costs.context_tokens(load.num_spare, most_tokens),
            seconds_per_token=self._costs.context_s(1),
            most_s=self._longest_pause_s(load, len(worthwhile)),
        )
        if not taken:
            return
        with self._faults.suspecting([sequence for sequence, _ in taken]):
            seconds = self._drafter.catch_up(taken)
        if seconds is not None:
            self._costs.observe_context(sum(num_new for _, num_new in taken), seconds)

    def _is_worthwhile(self, option: Option, speedup: float, load: Load) -> bool:
        seconds_per_token = self._costs.mean_step_s(load.num_sequences, load.num_rows) / load.num_decoding
        saved_s = self._catch_up.saved_s(option.sequence, seconds_per_token=seconds_per_token, speedup=speedup)
        return saved_s > self._costs.context_s(option.lag)

    def _longest_pause_s(self, load: Load, num_lagging: int) -> float | None:
        """How long a step may be held up for its sequences' sake; None if there are no others."""
        if load.num_sequences == num_lagging:
            return None
        return self._costs.step_s(load.num_sequences, load.num_rows)

    def _least_reach(self, choice: Choice, load: Load, num_drafting: int) -> float:
        """How likely a draft must be to stand for one token more to bring as much as its time does elsewhere."""
        if choice.tokens_per_s is None:
            return 0.0
        num_rows = sum(choice.lengths)
        plain_s = self._costs.step_s(load.num_sequences, load.num_rows)
        row_s = (self._costs.step_s(load.num_sequences, load.num_rows + num_rows) - plain_s) / num_rows
        return choice.tokens_per_s * (self._costs.pass_s(num_drafting, plain_s) / num_drafting + row_s)

    def _run_drafter(self, scheduler: DraftScheduler, lengths: list[tuple[Sequence, int]], least_reach: float) -> None:
        assert self._drafter is not None
        with self._faults.suspecting([sequence for sequence, _ in lengths]):
            drafts, pass_s = self._drafter.draft(lengths, least_reach=least_reach)
        if pass_s is not None:
            self._costs.observe_pass(len(drafts), pass_s)
        for (sequence, length), token_ids in zip(lengths, drafts, strict=True):
            self._acceptance.observe_length(length, len(token_ids))
            self._set(scheduler, sequence, Source.DRAFT_MODEL, token_ids)

    def _set(self, scheduler: DraftScheduler, sequence: Sequence, source: Source, token_ids: list[int]) -> None:
        scheduler.set_draft(sequence, token_ids)
        self._sources[sequence.id] = source

    # --- after it -----------------------------------------------------------------------------------------------------

    def observe(
        self, plan: StepPlan, result: StepResult, outputs: list[RequestOutput], step_s: float
    ) -> list[RequestOutput]:
        """Learn from a step; returns its outputs, of requests with a prediction with how much of it they have had.

        outputs: as `update` has made them of the result. step_s: without the drafting.
        """
        if any(item.num_draft for item in plan.items):
            num_new = {output.id: len(output.new_ids) for output in outputs}
            for item, row in zip(plan.items, result.rows, strict=True):
                if item.num_draft and row.token_ids:
                    self._take_verified(item, len(row.token_ids) - 1, num_new.get(item.sequence.id, 0))
        if plan.is_decoding:
            self._observe_decoding(plan, result, outputs, step_s)
        elif result.is_representative:
            self._costs.observe_other(plan.num_tokens, step_s)
        return self._with_predictions(plan, outputs)

    def _observe_decoding(
        self, plan: StepPlan, result: StepResult, outputs: list[RequestOutput], step_s: float
    ) -> None:
        num_sequences = len(plan.items)
        if result.is_representative:
            self._costs.observe_decoding(num_sequences, plan.num_tokens, step_s)
        if not all(item.sequence.service.is_counted for item in plan.items):
            return
        self._report.take_decoding(
            num_sequences,
            sum(len(output.new_ids) for output in outputs),
            has_drafts=any(item.num_draft for item in plan.items),
            plain_s=self._costs.mean_step_s(num_sequences, num_sequences),
            step_s=step_s,
            drafting_s=self._draft_s,
        )

    def _take_verified(self, item: PlanItem, num_accepted: int, num_new: int) -> None:
        """num_new: tokens that the text has had of it: less than were accepted if it ended, none if it was aborted."""
        sequence = item.sequence
        self._acceptance.observe(sequence.id, self._sources[sequence.id], item.num_draft, num_accepted)
        if num_new:
            self._report.count_draft(item.num_draft, min(num_accepted, num_new))
        self._faults.forgive()

    def _with_predictions(self, plan: StepPlan, outputs: list[RequestOutput]) -> list[RequestOutput]:
        predicting = {
            item.sequence.id: item.sequence
            for item in plan.items
            if item.sequence.request.prediction_ids and item.needs_logits
        }
        if not predicting:
            return outputs
        found = {
            output.id: self._predictions.num_found(predicting[output.id], len(output.new_ids))
            for output in outputs
            if output.id in predicting
        }
        return [
            msgspec.structs.replace(output, num_predicted=found[output.id]) if output.id in found else output
            for output in outputs
        ]

    def take_fault(self) -> None:
        """Something here has raised; see FaultBook."""
        self._sources = {}
        self._faults.take()

    def step_stats(self) -> dict[str, Any]:
        """Fields of StepStats, of the step since the last `draft`."""
        return self._report.stats()

    def release(self, sequence: Sequence) -> None:
        self._options.release(sequence)
        self._acceptance.release(sequence.id)
        self._faults.release(sequence)
        if sequence.num_output:
            self._catch_up.observe_end(sequence.num_output)
