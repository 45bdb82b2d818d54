"""CostModel: estimates the seconds of steps, and of a draft model's passes and context, from measurements."""

from engine.speculation.step_times import StepTimes

_NEW_WEIGHT = 0.2  # of a new measurement of catching up


class CostModel:
    """Time estimates for one machine and model. An estimate is a lower bound until the first measurement."""

    def __init__(self, relative_size: float) -> None:
        """relative_size: bytes that a draft model's pass reads, relative to the target's; 0 without a draft model."""
        self._relative_size = relative_size
        self.steps = StepTimes()  # that decode and verify
        self.passes = StepTimes()  # of the draft model, with a row for each sequence
        self._context_s_per_token: float | None = None  # for each token that the draft model catches up with

    def observe_context(self, num_tokens: int, seconds: float) -> None:
        """Record a pass in which the draft model caught up with `num_tokens` context tokens."""
        rate, known = seconds / num_tokens, self._context_s_per_token
        self._context_s_per_token = rate if known is None else known + _NEW_WEIGHT * (rate - known)

    def pass_s(self, num_drafting: int, plain_s: float) -> float:
        """Return the seconds of a draft model's pass; until measured, `plain_s` scaled by the relative size."""
        if self.passes.knows(num_drafting, num_drafting):
            return self.passes.estimate(num_drafting, num_drafting)
        return plain_s * self._relative_size

    def context_s(self, num_tokens: int) -> float:
        """Return the seconds in which the draft model catches up with `num_tokens` tokens; until measured, derived from
        the target's prefills and the relative size."""
        if self._context_s_per_token is None:
            return num_tokens * self.steps.seconds_per_row * self._relative_size
        return num_tokens * self._context_s_per_token

    def context_tokens(self, num_rows: int, max_tokens: int) -> int:
        """Return how many tokens the draft model can catch up with in the time of `num_rows` rows of a long step: more
        than `num_rows`, since the model is small, but at most `max_tokens`."""
        own_s = self.context_s(1)
        ratio = 1.0 if own_s <= 0 else max(1.0, min(4.0, self.steps.seconds_per_row / own_s))
        return min(max_tokens, int(num_rows * ratio))
