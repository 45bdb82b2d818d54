"""DraftPlanner: decides how many tokens each candidate drafts, by cost and acceptance probability."""

from dataclasses import dataclass

from engine.scheduling.sequence import Sequence
from engine.speculation.acceptance import Acceptance
from engine.speculation.cost_model import CostModel
from engine.speculation.lengths import DraftOdds, DraftPlan, choose_lengths
from engine.speculation.proposers import DraftCandidate, DraftSource


@dataclass(frozen=True, slots=True)
class StepLoad:
    """A step before drafts are added. num_rows: tokens to compute. num_spare: tokens left in the step's budget."""

    num_sequences: int
    num_decoding: int
    num_rows: int
    num_spare: int

    @classmethod
    def of(cls, running: list[Sequence], max_num_batched_tokens: int) -> "StepLoad":
        num_rows = sum(sequence.num_pending for sequence in running)
        return cls(
            num_sequences=len(running),
            num_decoding=sum(sequence.num_pending == 1 for sequence in running),
            num_rows=num_rows,
            num_spare=max(0, max_num_batched_tokens - num_rows),
        )


class DraftPlanner:
    """Chooses draft lengths from estimated acceptance probabilities and costs."""

    def __init__(self, acceptance: Acceptance, costs: CostModel) -> None:
        self.acceptance = acceptance
        self.costs = costs

    def knows_plain(self, load: StepLoad) -> bool:
        """Whether drafts may be planned. If not, the time of a decoding step without drafts is still unknown, and this
        step must run without drafts to measure it."""
        return load.num_decoding < load.num_sequences or self.costs.steps.knows(load.num_sequences, load.num_sequences)

    def plan(self, candidates: list[DraftCandidate], load: StepLoad) -> DraftPlan:
        plain_s = self.costs.steps.estimate(load.num_sequences, load.num_rows)
        return choose_lengths(
            [self._odds(candidate) for candidate in candidates],
            num_decoding=load.num_decoding,
            row_budget=load.num_spare,
            step_s=lambda num_drafted: self.costs.steps.estimate(load.num_sequences, load.num_rows + num_drafted),
            pass_s=lambda num_drafting: self.costs.pass_s(num_drafting, plain_s),
        )

    def _odds(self, candidate: DraftCandidate) -> DraftOdds:
        num_tokens = len(candidate.token_ids)
        return DraftOdds(
            self.acceptance.acceptance_probs(candidate.sequence.id, candidate.source, num_tokens),
            self.acceptance.continue_probs(candidate.source, num_tokens),
            needs_passes=candidate.source is DraftSource.DRAFT_MODEL,
        )

    def speedup(self, plan: DraftPlan, load: StepLoad) -> float:
        """Return the plan's estimated speed-up over a step without drafts; 1 while no such step has been measured."""
        step_s = self.costs.steps.mean(load.num_sequences, load.num_rows)
        if plan.tokens_per_s is None or not step_s:
            return 1.0
        return plan.tokens_per_s * step_s / load.num_decoding

    def min_path_prob(self, plan: DraftPlan, load: StepLoad, num_drafting: int) -> float:
        """Return the threshold at which a draft ends: if the whole draft is less likely to be accepted, one more token
        does not pay. num_drafting: number of sequences for which the draft model drafts."""
        if plan.tokens_per_s is None:
            return 0.0
        num_rows = sum(plan.lengths)
        plain_s = self.costs.steps.estimate(load.num_sequences, load.num_rows)
        row_s = (self.costs.steps.estimate(load.num_sequences, load.num_rows + num_rows) - plain_s) / num_rows
        return plan.tokens_per_s * (self.costs.pass_s(num_drafting, plain_s) / num_drafting + row_s)
