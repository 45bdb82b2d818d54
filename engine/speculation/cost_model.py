"""Costs: seconds of what speculation chooses between, as learned so far: steps, a draft model's passes, its context."""

from engine.speculation.step_times import StepTimes

_PREFILL_ROWS = 64  # a step with so many is a measure of arithmetic
_RATE = 0.2  # weight of a new measurement of catching up


class Costs:
    """All estimates are of one machine and model; what has not been measured is estimated from below."""

    def __init__(self, relative_size: float) -> None:
        """relative_size: bytes that a pass of the draft model reads, over those of the target; 0 without one."""
        self._relative_size = relative_size
        self._steps = StepTimes()
        self._passes = StepTimes()
        self._context_s: float | None = None  # of a token that the draft model catches up with

    # --- learning -----------------------------------------------------------------------------------------------------

    def observe_decoding(self, num_sequences: int, num_rows: int, seconds: float) -> None:
        """A step in which all sequences decode, and nothing unusual has happened."""
        self._steps.observe(num_sequences, num_rows, seconds)

    def observe_other(self, num_rows: int, seconds: float) -> None:
        """Any other step in which nothing unusual has happened."""
        if num_rows >= _PREFILL_ROWS:
            self._steps.observe_prefill(num_rows, seconds)

    def observe_pass(self, num_drafting: int, seconds: float) -> None:
        self._passes.observe(num_drafting, num_drafting, seconds)

    def observe_context(self, num_tokens: int, seconds: float) -> None:
        """The draft model has caught up with so many tokens."""
        rate, known = seconds / num_tokens, self._context_s
        self._context_s = rate if known is None else known + _RATE * (rate - known)

    def age_passes(self) -> None:
        """A step went by without drafts: passes may be other than they were."""
        self._passes.age()

    # --- estimates ----------------------------------------------------------------------------------------------------

    def knows_plain(self, num_sequences: int) -> bool:
        """Whether steps have been measured in which so many sequences decode and none drafts."""
        return self._steps.knows(num_sequences, num_sequences)

    def step_s(self, num_sequences: int, num_rows: int) -> float:
        return self._steps.estimate(num_sequences, num_rows)

    def mean_step_s(self, num_sequences: int, num_rows: int) -> float:
        """As measured and reported: nothing is left out or hoped for."""
        return self._steps.mean(num_sequences, num_rows)

    def pass_s(self, num_drafting: int, plain_s: float) -> float:
        """A pass of the draft model; until it has been measured, its share of the model's size tells."""
        if self._passes.knows(num_drafting, num_drafting):
            return self._passes.estimate(num_drafting, num_drafting)
        return plain_s * self._relative_size

    def context_s(self, num_tokens: int) -> float:
        """Catching up with so many tokens; at first from the model's prefills, by the same share."""
        if self._context_s is None:
            return num_tokens * self._steps.seconds_per_row * self._relative_size
        return num_tokens * self._context_s

    def context_tokens(self, num_rows: int, most: int) -> int:
        """Tokens that it catches up with in the time that so many rows of a long step take: more, as it is small, but
        at most so many."""
        own_s = self.context_s(1)
        ratio = 1.0 if own_s <= 0 else max(1.0, min(4.0, self._steps.seconds_per_row / own_s))
        return min(most, int(num_rows * ratio))
