"""CatchUp: makes a draft model compute the context of sequences whose drafts will save more time than that costs."""

from engine.scheduling.sequence import Sequence
from engine.speculation.fault_log import FaultLog
from engine.speculation.planner import DraftPlanner, StepLoad
from engine.speculation.proposers import DraftCandidate, Drafter

_PRIOR_OUTPUT_LEN = 128.0  # tokens, before any sequence has ended
_NEW_WEIGHT = 0.1  # of a new sequence's length
_MIN_CHUNK = 16  # tokens of a step, however slow the draft model is


class CatchUp:
    """Compares the cost of computing a sequence's context with the time that drafts would save over its further output,
    whose length is estimated from finished sequences."""

    def __init__(self, drafter: Drafter | None, planner: DraftPlanner, faults: FaultLog) -> None:
        self._drafter = drafter
        self._planner = planner
        self._costs = planner.costs
        self._faults = faults
        self._mean_output_len = _PRIOR_OUTPUT_LEN

    def observe_end(self, num_output: int) -> None:
        """Update the mean output length with a finished sequence."""
        self._mean_output_len += _NEW_WEIGHT * (num_output - self._mean_output_len)

    def compute(self, candidates: list[DraftCandidate], load: StepLoad, max_tokens: int) -> None:
        """Compute missing context with the draft model where that pays: at most `max_tokens` tokens in all."""
        if not any(candidate.num_behind for candidate in candidates):
            return
        assert self._drafter is not None
        behind = self._worthwhile(candidates, load)
        chunks = plan_chunks(
            behind,
            self._costs.context_tokens(load.num_spare, max_tokens),
            seconds_per_token=self._costs.context_s(1),
            max_s=self._max_pause_s(load, len(behind)),
        )
        if not chunks:
            return
        with self._faults.suspecting([sequence for sequence, _ in chunks]):
            seconds = self._drafter.catch_up(chunks)
        if seconds is not None:
            self._costs.observe_context(sum(num_new for _, num_new in chunks), seconds)

    def _worthwhile(self, candidates: list[DraftCandidate], load: StepLoad) -> list[tuple[Sequence, int]]:
        """Return the sequences for which catching up pays, and how many context tokens the draft model lacks."""
        plan = self._planner.plan(candidates, load)
        speedup = self._planner.speedup(plan, load)
        behind = []
        for candidate, length in zip(candidates, plan.lengths, strict=True):
            if candidate.num_behind and length == 0:
                self._planner.acceptance.observe_idle(candidate.sequence.id, candidate.source)
            elif candidate.num_behind and self._is_worthwhile(candidate, speedup, load):
                behind.append((candidate.sequence, candidate.num_behind))
        return behind

    def _is_worthwhile(self, candidate: DraftCandidate, speedup: float, load: StepLoad) -> bool:
        seconds_per_token = self._costs.steps.mean(load.num_sequences, load.num_rows) / load.num_decoding
        saved_s = self._expected_tokens(candidate.sequence) * seconds_per_token * (1 - 1 / speedup)
        return saved_s > self._costs.context_s(candidate.num_behind)

    def _expected_tokens(self, sequence: Sequence) -> float:
        """Return the expected further output tokens: the mean output length minus the output so far, but at least half
        of the output so far."""
        return min(sequence.num_remaining, max(self._mean_output_len - sequence.num_output, sequence.num_output / 2))

    def _max_pause_s(self, load: StepLoad, num_behind: int) -> float | None:
        """Return the seconds that catching up may delay other running sequences; None if all are to catch up.

        num_behind: number of sequences that are to catch up.
        """
        if load.num_sequences == num_behind:
            return None
        return self._costs.steps.estimate(load.num_sequences, load.num_rows)


def plan_chunks(
    behind: list[tuple[Sequence, int]], num_spare: int, *, seconds_per_token: float, max_s: float | None
) -> list[tuple[Sequence, int]]:
    """Return how many context tokens of each sequence to compute in this step, in the order given.

    behind: sequences, and the number of context tokens that the draft model lacks. num_spare: tokens that may be
    computed besides the step's own. max_s: seconds that other sequences may wait; None if no other sequence runs.
    """
    budget = num_spare
    if max_s is not None and seconds_per_token > 0:
        budget = min(budget, max(_MIN_CHUNK, int(max_s / seconds_per_token)))
    chunks = []
    for sequence, num_behind in behind:
        num_new = min(num_behind, budget)
        if num_new > 0:
            chunks.append((sequence, num_new))
            budget -= num_new
    return chunks
