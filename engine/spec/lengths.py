"""Choice of draft lengths: those that bring the most tokens a second, request by request."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
    gains = []  # (-chance to be emitted, place, candidate, chance to be drafted)
    for number, candidate in enumerate(candidates):
        emitted = drafted = 1.0
        for place, (stands, goes_on) in enumerate(zip(candidate.chances, candidate.going, strict=True)):
            drafted *= goes_on
            emitted *= goes_on * stands
            gains.append((-emitted, place, number, drafted))
    gains.sort()
    plain_s = max(1e-9, step_s(0))
    best_rate = num_decoding / plain_s * _LEAST_GAIN
    num_taken = 0
    tokens = float(num_decoding)
    rows = 0.0
    passes, drafters = [0.0] * max((len(c.chances) for c in candidates), default=0), 0  # chance of each pass
    for count, (negative_chance, place, number, drafted) in enumerate(gains[:row_budget], start=1):
        tokens -= negative_chance
        rows += drafted
        if candidates[number].needs_passes:
            passes[place] = max(passes[place], drafted)
            drafters += place == 0
        rate = tokens / max(1e-9, step_s(round(rows)) + (sum(passes) * pass_s(drafters) if drafters else 0.0))
        if rate > best_rate:
            best_rate, num_taken = rate, count
    lengths = [0] * len(candidates)
    if num_taken == 0:
        return Choice(lengths, None)
    for _, _, number, _ in gains[:num_taken]:
        lengths[number] += 1
    return Choice(lengths, best_rate)
