"""StepBudget: how many tokens a step may compute, from how long steps turned out to take."""

_ALONE_S = 0.5  # a prompt that nobody's next token waits for: long steps read the weights fewer times
_BESIDE_S = 0.25  # while sequences generate, a step is the longest gap in their streams
_LEAST_TOKENS, _MOST_TOKENS, _STEP = 64, 8192, 32
_LEAST_SAMPLE = 64  # steps of fewer tokens are bound by reading weights, and tell nothing of more
# A step that was faster than believed is believed at once, a slower one may have been disturbed.
_FASTER_WEIGHT, _SLOWER_WEIGHT = 0.5, 0.1


class StepBudget:
    """Bounds a step in time, or at a number of tokens that was asked for.

    Time is bounded by a number of tokens: the seconds that one takes are measured at the warm-up and learned on from
    every step with enough of them, since they depend on the context, on other programs and on the size of steps.
    """

    def __init__(self, num_tokens: int | None, seconds_per_token: float = 0.0) -> None:
        """num_tokens: of every step; None learns, from `seconds_per_token` on."""
        self._num_tokens = num_tokens
        self._seconds_per_token = seconds_per_token

    @property
    def max_tokens(self) -> int:
        """More than a step ever has."""
        return self._num_tokens or _MOST_TOKENS

    def tokens(self, num_generating: int) -> int:
        """Most tokens of the next step, in which `num_generating` sequences go on with their output.

        Those have a token each in any case, and prompts get on beside them.
        """
        if self._num_tokens is not None:
            return self._num_tokens
        target_s = _BESIDE_S if num_generating else _ALONE_S
        tokens = int(target_s / max(self._seconds_per_token, 1e-9)) // _STEP * _STEP
        return min(_MOST_TOKENS, max(tokens, num_generating + _LEAST_TOKENS))

    def observe(self, num_tokens: int, step_s: float) -> None:
        """Learn from a step that was computed without a fault."""
        if num_tokens < _LEAST_SAMPLE:
            return
        change = step_s / num_tokens - self._seconds_per_token
        self._seconds_per_token += change * (_FASTER_WEIGHT if change < 0 else _SLOWER_WEIGHT)
