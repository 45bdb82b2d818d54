"""CatchUp: whether a draft model's share in a sequence is worth the context that it first has to compute."""

from engine.scheduling.sequence import Sequence

_USUAL_OUTPUT = 128.0  # tokens, before any text has ended
_RATE = 0.1  # weight of a new text's length
_LEAST_CHUNK = 16  # tokens of a step, however slow the draft model is


class CatchUp:
    """Learns how long texts become, and weighs what drafts will save of the rest of one against its context."""

    def __init__(self) -> None:
        self._mean_output = _USUAL_OUTPUT

    def observe_end(self, num_output: int) -> None:
        """A text has ended."""
        self._mean_output += _RATE * (num_output - self._mean_output)

    def saved_s(self, sequence: Sequence, *, seconds_per_token: float, speedup: float) -> float:
        """Seconds that drafts will save of the rest of a text, of which a token takes so many without."""
        return self._num_expected(sequence) * seconds_per_token * (1 - 1 / speedup)

    def _num_expected(self, sequence: Sequence) -> float:
        """Tokens still to come: a text that is longer than most will be half as long again."""
        return min(sequence.num_remaining, max(self._mean_output - sequence.num_output, sequence.num_output / 2))


def chunks(
    lags: list[tuple[Sequence, int]], num_spare: int, *, seconds_per_token: float, most_s: float | None
) -> list[tuple[Sequence, int]]:
    """How much of each context to compute in this step, in their order.

    num_spare: tokens that may be computed beside the step. most_s: how long others may be kept
    waiting, None without others.
    """
    budget = num_spare
    if most_s is not None and seconds_per_token > 0:
        budget = min(budget, max(_LEAST_CHUNK, int(most_s / seconds_per_token)))
    taken = []
    for sequence, lag in lags:
        num_new = min(lag, budget)
        if num_new > 0:
            taken.append((sequence, num_new))
            budget -= num_new
    return taken
