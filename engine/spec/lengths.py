"""Choice of draft lengths: those that bring the most tokens a second, request by request."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

_LEAST_GAIN = 1.03  # estimated; less is not worth the uncertainty of the estimate


@dataclass(frozen=True, slots=True)
class Candidate:
    """One sequence that could draft. chances: of each place, given the ones before. needs_passes: by a draft model."""

    chances: list[float]
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
    each, the rate is (tokens + sum of chances) / seconds, and the best prefix of this order wins.
    """
    gains = []  # (chance, place, candidate)
    for number, candidate in enumerate(candidates):
        chance = 1.0
        for place, given in enumerate(candidate.chances):
            chance *= given
            gains.append((-chance, place, number))
    gains.sort()
    plain_s = max(1e-9, step_s(0))
    best_rate = num_decoding / plain_s * _LEAST_GAIN
    num_taken = 0
    tokens = float(num_decoding)
    depth, drafters = 0, 0
    for count, (negative_chance, place, number) in enumerate(gains[:row_budget], start=1):
        tokens -= negative_chance
        if candidates[number].needs_passes:
            depth = max(depth, place + 1)
            drafters += place == 0
        rate = tokens / max(1e-9, step_s(count) + (depth * pass_s(drafters) if depth else 0.0))
        if rate > best_rate:
            best_rate, num_taken = rate, count
    lengths = [0] * len(candidates)
    if num_taken == 0:
        return Choice(lengths, None)
    for _, _, number in gains[:num_taken]:
        lengths[number] += 1
    return Choice(lengths, best_rate)
