"""DraftCandidates: finds a possible draft for each sequence, from the most promising source."""

from collections.abc import Collection, Iterable

from engine.scheduling.sequence import Sequence
from engine.speculation.fault_log import FaultLog
from engine.speculation.planner import DraftPlanner
from engine.speculation.proposers import DraftCandidate, Drafter, DraftSource, LookupProposer


class DraftCandidates:
    """Collects drafts from all sources, and selects the most promising one for each sequence."""

    def __init__(
        self,
        max_tokens: int,
        lookups: Iterable[LookupProposer],
        drafter: Drafter | None,
        planner: DraftPlanner,
        faults: FaultLog,
    ) -> None:
        self._max_tokens = max_tokens
        self._lookups = list(lookups)
        self._drafter = drafter
        self._planner = planner
        self._faults = faults

    def begin_step(self) -> None:
        for lookup in self._lookups:
            lookup.begin_step()
        if self._drafter is not None:
            self._drafter.begin_step()

    def release(self, sequence: Sequence) -> None:
        for lookup in self._lookups:
            lookup.release(sequence)
        if self._drafter is not None:
            self._drafter.release(sequence)

    def find(self, running: list[Sequence], sources: Collection[DraftSource]) -> list[DraftCandidate]:
        """Return a candidate for each decoding sequence for which one of `sources` has a draft."""
        if sources == {DraftSource.PREDICTION}:  # without speculation
            running = [sequence for sequence in running if sequence.request.prediction_ids]
        candidates = []
        for sequence in running:
            max_len = min(self._max_tokens, sequence.num_remaining - 1)
            can_draft = sequence.num_pending == 1 and sequence.service.is_drafted
            if can_draft and max_len > 0 and not self._faults.is_muted(sequence):
                with self._faults.suspecting([sequence]):
                    candidates += self._best(self._all_of(sequence, max_len, sources))
        return candidates

    def _all_of(self, sequence: Sequence, max_len: int, sources: Collection[DraftSource]) -> list[DraftCandidate]:
        candidates = [
            DraftCandidate(sequence, lookup.source, token_ids)
            for lookup in self._lookups
            if lookup.source in sources and (token_ids := _matching(sequence, lookup.propose(sequence, max_len)))
        ]
        drafter = self._drafter if DraftSource.DRAFT_MODEL in sources else None
        if drafter is not None and (max_len := min(max_len, drafter.max_draft_len(sequence))) > 0:
            fallback = max(candidates, key=self._first_token_gain, default=None)
            num_behind = drafter.num_behind(sequence)
            candidates.append(DraftCandidate(sequence, DraftSource.DRAFT_MODEL, [0] * max_len, num_behind, fallback))
        return candidates

    def _best(self, candidates: list[DraftCandidate]) -> list[DraftCandidate]:
        """Return the candidate with the best first token, by acceptance probability minus relative cost of drafting."""
        if len(candidates) < 2:
            return candidates
        best = max(candidates, key=self._first_token_gain)
        for candidate in candidates:
            if candidate is not best:
                self._planner.acceptance.observe_idle(candidate.sequence.id, candidate.source)
        return [best]

    def _first_token_gain(self, candidate: DraftCandidate) -> float:
        (prob,) = self._planner.acceptance.acceptance_probs(candidate.sequence.id, candidate.source, 1)
        if candidate.source is not DraftSource.DRAFT_MODEL:
            return prob
        costs = self._planner.costs
        plain_s = costs.steps.estimate(1, 1)
        return prob - costs.pass_s(1, plain_s) / max(1e-9, plain_s)


def _matching(sequence: Sequence, token_ids: list[int]) -> list[int]:
    """Return the tokens before the first that the sequence's grammar rejects: later ones cannot be accepted."""
    if sequence.grammar is None or not token_ids:
        return token_ids
    return token_ids[: sequence.grammar.num_matching(token_ids)]
