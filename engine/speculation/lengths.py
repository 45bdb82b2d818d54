"""Choice of draft lengths, one for each request, that maximize the estimated tokens per second."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

_MIN_GAIN = 1.03  # estimated; less is not worth the uncertainty of the estimate


@dataclass(frozen=True, slots=True)
class DraftOdds:
    """Probabilities of a sequence's draft, by position.

    acceptance_probs: that the token is accepted, given that it is drafted and the tokens before it are accepted.
    continue_probs: that the token is drafted, given that the one before it is. needs_passes: whether a draft model
    drafts.
    """

    acceptance_probs: list[float]
    continue_probs: list[float]
    needs_passes: bool


@dataclass(frozen=True, slots=True)
class DraftPlan:
    """Draft lengths, one for each candidate. tokens_per_s: estimated throughput; None if no sequence drafts."""

    lengths: list[int]
    tokens_per_s: float | None


def choose_lengths(
    candidates: Sequence[DraftOdds],
    *,
    num_decoding: int,
    row_budget: int,
    step_s: Callable[[int], float],
    pass_s: Callable[[int], float],
) -> DraftPlan:
    """Return the draft lengths with the highest estimated throughput.

    num_decoding: number of decoding sequences, each of which gets a token without drafts, too. step_s(n): seconds of
    the step with n draft tokens; pass_s(n): seconds of one pass of the draft model over n sequences. row_budget: limit
    of all draft tokens together.

    Draft tokens are added in order of their probability to be emitted, which falls from position to position in a
    sequence. The prefix of this order with the highest rate, (tokens + sum of probabilities) / seconds, wins. Seconds
    are those of the expected rows and passes: a pass runs if the sequence that is likeliest to continue its draft does.
    """
    gains = _gains(candidates)[:row_budget]
    best_rate = num_decoding / max(1e-9, step_s(0)) * _MIN_GAIN
    num_taken = num_drafting = 0
    tokens, rows = float(num_decoding), 0.0
    pass_probs = [0.0] * max((len(c.acceptance_probs) for c in candidates), default=0)
    for count, gain in enumerate(gains, start=1):
        tokens += gain.emit_prob
        rows += gain.draft_prob
        if candidates[gain.candidate].needs_passes:
            pass_probs[gain.position] = max(pass_probs[gain.position], gain.draft_prob)
            num_drafting += gain.position == 0
        drafting_s = sum(pass_probs) * pass_s(num_drafting) if num_drafting else 0.0
        rate = tokens / max(1e-9, step_s(round(rows)) + drafting_s)
        if rate > best_rate:
            best_rate, num_taken = rate, count
    lengths = [0] * len(candidates)
    for gain in gains[:num_taken]:
        lengths[gain.candidate] += 1
    return DraftPlan(lengths, best_rate if num_taken else None)


class _Gain(NamedTuple):
    """One possible draft token, with its probabilities to be emitted, and to be drafted at all."""

    emit_prob: float
    position: int
    candidate: int
    draft_prob: float


def _gains(candidates: Sequence[DraftOdds]) -> list[_Gain]:
    """Return the possible draft tokens of all candidates, the likeliest to be emitted first."""
    gains = []
    for index, candidate in enumerate(candidates):
        emit_prob = draft_prob = 1.0
        probs = zip(candidate.acceptance_probs, candidate.continue_probs, strict=True)
        for position, (acceptance_prob, continue_prob) in enumerate(probs):
            draft_prob *= continue_prob
            emit_prob *= continue_prob * acceptance_prob
            gains.append(_Gain(emit_prob, position, index, draft_prob))
    return sorted(gains, key=lambda gain: (-gain.emit_prob, gain.position, gain.candidate))
