"""Choice of draft lengths: those that bring the most tokens a second, request by request."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

_LEAST_GAIN = 1.03  # estimated; less is not worth the uncertainty of the estimate


@dataclass(frozen=True, slots=True)
class Candidate:
    """One sequence that could draft. chances: that each place's token stands, given that it is drafted and the ones
    before stand. going: that it is drafted, given that the one before is. needs_passes: by a draft model."""

    chances: list[float]
    going: list[float]
    needs_passes: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """lengths: one a candidate. tokens_per_s: estimated; None where nobody drafts."""

    lengths: list[int]
    tokens_per_s: float | None


def choose_lengths(
    candidates: Sequence[Candidate],
    *,
    num_decoding: int,
    row_budget: int,
    step_s: Callable[[int], float],
    pass_s: Callable[[int], float],
) -> Choice:
    """The draft lengths with the best estimated rate of tokens.

    num_decoding: sequences that get a token without drafts. step_s(n): seconds of the step with n drafted rows;
    pass_s(n): of one pass of the draft model over n sequences. row_budget: most drafted tokens in all.

    Tokens are taken in order of their chance to be emitted, which for one sequence falls from place to place; with
    each, the rate is (tokens + sum of chances) / seconds, and the best prefix of this order wins. Seconds are those of
    the rows and passes to be expected: a pass takes place if the sequence that is likeliest to go on does.
    """
    gains = _gains(candidates)[:row_budget]
    best_rate = num_decoding / max(1e-9, step_s(0)) * _LEAST_GAIN
    num_taken = drafters = 0
    tokens, rows = float(num_decoding), 0.0
    passes = [0.0] * max((len(c.chances) for c in candidates), default=0)  # chance of each
    for count, gain in enumerate(gains, start=1):
        tokens += gain.emitted
        rows += gain.drafted
        if candidates[gain.candidate].needs_passes:
            passes[gain.place] = max(passes[gain.place], gain.drafted)
            drafters += gain.place == 0
        rate = tokens / max(1e-9, step_s(round(rows)) + (sum(passes) * pass_s(drafters) if drafters else 0.0))
        if rate > best_rate:
            best_rate, num_taken = rate, count
    lengths = [0] * len(candidates)
    for gain in gains[:num_taken]:
        lengths[gain.candidate] += 1
    return Choice(lengths, best_rate if num_taken else None)


class _Gain(NamedTuple):
    """What one drafted token brings: its chances to be drafted at all, and to be emitted."""

    emitted: float
    place: int
    candidate: int
    drafted: float


def _gains(candidates: Sequence[Candidate]) -> list[_Gain]:
    """Of every place of every candidate, the likeliest first."""
    gains = []
    for number, candidate in enumerate(candidates):
        emitted = drafted = 1.0
        for place, (stands, goes_on) in enumerate(zip(candidate.chances, candidate.going, strict=True)):
            drafted *= goes_on
            emitted *= goes_on * stands
            gains.append(_Gain(emitted, place, number, drafted))
    return sorted(gains, key=lambda gain: (-gain.emitted, gain.place, gain.candidate))
