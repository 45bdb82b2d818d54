"""StepBudget: how many tokens a step may compute, learned from how long steps take."""

_PREFILL_TARGET_S = 0.5  # while no sequence generates: long steps read the weights fewer times
_MIXED_TARGET_S = 0.25  # while sequences generate, a step is the longest gap in their streams
_MIN_PREFILL_TOKENS, _MAX_TOKENS, _TOKENS_MULTIPLE = 64, 8192, 32
_FULL_STEPS = 16  # of a size that memory suffices for, before larger ones are tried
_MIN_SAMPLE_TOKENS = 64  # shorter steps are bound by reading weights, and tell nothing about longer ones
# A step that was faster than expected is believed at once; a slower one may have been disturbed.
_FASTER_WEIGHT, _SLOWER_WEIGHT = 0.5, 0.1


class StepBudget:
    """Bounds a step in time, or at a fixed number of tokens.

    Time is bounded by a number of tokens: the seconds that one takes are measured at the warm-up and learned from every
    step with enough of them, since they depend on the context, on other programs and on the size of steps.

    A step for which memory did not suffice halves the limit. It doubles again after some full steps, each time more of
    them, so that what the larger step costs, if it fails too, is little beside what they did.
    """

    def __init__(self, num_tokens: int | None, seconds_per_token: float = 0.0) -> None:
        """num_tokens: of every step; None learns, starting from `seconds_per_token`."""
        self._num_tokens = num_tokens
        self._seconds_per_token = seconds_per_token
        self._memory_limit: int | None = None  # tokens of a step; None is no limit
        self._num_full = 0  # steps at the limit since it was set
        self._patience = _FULL_STEPS

    @property
    def max_tokens(self) -> int:
        """No step has more."""
        return self._num_tokens or _MAX_TOKENS

    def tokens(self, num_generating: int) -> int:
        """Most tokens of the next step, in which `num_generating` sequences continue their output.

        Each of those has a token in any case, and prompts have some beside them; not so while memory is short.
        """
        tokens = self._tokens_in_time(num_generating)
        return tokens if self._memory_limit is None else min(tokens, self._memory_limit)

    def _tokens_in_time(self, num_generating: int) -> int:
        if self._num_tokens is not None:
            return self._num_tokens
        target_s = _MIXED_TARGET_S if num_generating else _PREFILL_TARGET_S
        tokens = int(target_s / max(self._seconds_per_token, 1e-9)) // _TOKENS_MULTIPLE * _TOKENS_MULTIPLE
        return min(_MAX_TOKENS, max(tokens, num_generating + _MIN_PREFILL_TOKENS))

    def observe(self, num_tokens: int, step_s: float) -> None:
        """Learn from a step that did not fail."""
        if self._memory_limit is not None and num_tokens >= self._memory_limit:
            self._count_full()
        if num_tokens < _MIN_SAMPLE_TOKENS:
            return
        change = step_s / num_tokens - self._seconds_per_token
        self._seconds_per_token += change * (_FASTER_WEIGHT if change < 0 else _SLOWER_WEIGHT)

    def shrink(self, num_tokens: int) -> bool:
        """Memory did not suffice for a step of so many tokens: allow half of them. False if that is less than one."""
        if num_tokens < 2:
            return False
        if self._memory_limit is not None:
            self._patience *= 2
        self._memory_limit = num_tokens // 2
        self._num_full = 0
        return True

    def _count_full(self) -> None:
        """Note a step at the limit, and raise it if there were enough."""
        assert self._memory_limit is not None
        self._num_full += 1
        if self._num_full >= self._patience:
            self._num_full = 0
            self._memory_limit *= 2
            if self._memory_limit >= self.max_tokens:
                self._memory_limit, self._patience = None, _FULL_STEPS
