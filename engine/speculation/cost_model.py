"""CostModel: seconds of steps, of a draft model's passes and of its context, as learned so far."""

from engine.speculation.step_times import StepTimes

_PREFILL_ROWS = 64  # a step with at least this many rows measures arithmetic
_NEW_WEIGHT = 0.2  # of a new measurement of catching up


class CostModel:
    """Estimates are for one machine and model; quantities that have not been measured are estimated from below."""

    def __init__(self, relative_size: float) -> None:
        """relative_size: bytes that a pass of the draft model reads, over the target's; 0 without one."""
        self._relative_size = relative_size
        self._steps = StepTimes()
        self._passes = StepTimes()
        self._context_s_per_token: float | None = None  # for each token that the draft model catches up with

    # --- learning -----------------------------------------------------------------------------------------------------

    def observe_decoding(self, num_sequences: int, num_rows: int, seconds: float) -> None:
        """Learn from a step in which all sequences decoded, and nothing unusual happened."""
        self._steps.observe(num_sequences, num_rows, seconds)

    def observe_other(self, num_rows: int, seconds: float) -> None:
        """Learn from any other step in which nothing unusual happened."""
        if num_rows >= _PREFILL_ROWS:
            self._steps.observe_prefill(num_rows, seconds)

    def observe_pass(self, num_drafting: int, seconds: float) -> None:
        self._passes.observe(num_drafting, num_drafting, seconds)

    def observe_context(self, num_tokens: int, seconds: float) -> None:
        """Learn from a pass in which the draft model caught up with `num_tokens` tokens."""
        rate, known = seconds / num_tokens, self._context_s_per_token
        self._context_s_per_token = rate if known is None else known + _NEW_WEIGHT * (rate - known)

    def age_passes(self) -> None:
        """Lower the weight of what is known about passes, after a step without drafts: their cost may have changed."""
        self._passes.age()

    # --- estimates ----------------------------------------------------------------------------------------------------

    def knows_plain(self, num_sequences: int) -> bool:
        """Whether steps have been measured in which this many sequences decode and none drafts."""
        return self._steps.knows(num_sequences, num_sequences)

    def step_s(self, num_sequences: int, num_rows: int) -> float:
        return self._steps.estimate(num_sequences, num_rows)

    def mean_step_s(self, num_sequences: int, num_rows: int) -> float:
        """Return the mean of measured seconds, without optimism."""
        return self._steps.mean(num_sequences, num_rows)

    def pass_s(self, num_drafting: int, plain_s: float) -> float:
        """Return the seconds of a draft model's pass; from the model's relative size until it is measured."""
        if self._passes.knows(num_drafting, num_drafting):
            return self._passes.estimate(num_drafting, num_drafting)
        return plain_s * self._relative_size

    def context_s(self, num_tokens: int) -> float:
        """Return the seconds to catch up with `num_tokens` tokens; at first by the target's prefills and relative
        size."""
        if self._context_s_per_token is None:
            return num_tokens * self._steps.seconds_per_row * self._relative_size
        return num_tokens * self._context_s_per_token

    def context_tokens(self, num_rows: int, max_tokens: int) -> int:
        """Return how many tokens the draft model catches up with in the time that `num_rows` rows of a long step take:
        more than these, as it is small, but at most `max_tokens`."""
        own_s = self.context_s(1)
        ratio = 1.0 if own_s <= 0 else max(1.0, min(4.0, self._steps.seconds_per_row / own_s))
        return min(max_tokens, int(num_rows * ratio))
