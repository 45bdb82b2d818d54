"""CostModel: seconds of steps, of a draft model's passes and of its context, as learned so far."""

from engine.speculation.step_times import StepTimes

_NEW_WEIGHT = 0.2  # of a new measurement of catching up


class CostModel:
    """Estimates for one machine and model. Quantities that have not been measured are estimated from below."""

    def __init__(self, relative_size: float) -> None:
        """relative_size: bytes that a pass of the draft model reads, over the target's; 0 without one."""
        self._relative_size = relative_size
        self.steps = StepTimes()  # that decode and verify
        self.passes = StepTimes()  # of the draft model, with a row for each sequence
        self._context_s_per_token: float | None = None  # for each token that the draft model catches up with

    def observe_context(self, num_tokens: int, seconds: float) -> None:
        """Learn from a pass in which the draft model caught up with `num_tokens` tokens."""
        rate, known = seconds / num_tokens, self._context_s_per_token
        self._context_s_per_token = rate if known is None else known + _NEW_WEIGHT * (rate - known)

    def pass_s(self, num_drafting: int, plain_s: float) -> float:
        """Return the seconds of a draft model's pass; from the model's relative size until it is measured."""
        if self.passes.knows(num_drafting, num_drafting):
            return self.passes.estimate(num_drafting, num_drafting)
        return plain_s * self._relative_size

    def context_s(self, num_tokens: int) -> float:
        """Return the seconds to catch up with `num_tokens` tokens; at first by the target's prefills and relative
        size."""
        if self._context_s_per_token is None:
            return num_tokens * self.steps.seconds_per_row * self._relative_size
        return num_tokens * self._context_s_per_token

    def context_tokens(self, num_rows: int, max_tokens: int) -> int:
        """Return how many tokens the draft model catches up with in the time that `num_rows` rows of a long step take:
        more than these, as it is small, but at most `max_tokens`."""
        own_s = self.context_s(1)
        ratio = 1.0 if own_s <= 0 else max(1.0, min(4.0, self.steps.seconds_per_row / own_s))
        return min(max_tokens, int(num_rows * ratio))
