"""StepMemory: the most tokens of a step for which memory has sufficed."""

_FULL_STEPS = 16  # of a size that memory suffices for, before larger ones are tried


class StepMemory:
    """A step for which memory did not suffice halves the limit. It doubles again after some full steps, each time more
    of them, so that what the larger step costs, if it fails too, is little beside what they did."""

    def __init__(self, max_tokens: int) -> None:
        """max_tokens: that no step exceeds in any case."""
        self._max_tokens = max_tokens
        self._limit: int | None = None
        self._num_full = 0  # steps at the limit since it was set
        self._patience = _FULL_STEPS

    def limit(self, num_tokens: int) -> int:
        """As many of `num_tokens` as memory suffices for."""
        return num_tokens if self._limit is None else min(num_tokens, self._limit)

    def observe(self, num_tokens: int) -> None:
        """A step of `num_tokens` did not fail: raise the limit if enough steps reached it."""
        if self._limit is None or num_tokens < self._limit:
            return
        self._num_full += 1
        if self._num_full >= self._patience:
            self._num_full = 0
            self._limit *= 2
            if self._limit >= self._max_tokens:
                self._limit, self._patience = None, _FULL_STEPS

    def shrink(self, num_tokens: int) -> bool:
        """Memory did not suffice for a step of `num_tokens`: allow half of them. False if that is less than one."""
        num_tokens = self.limit(num_tokens)  # to fail is no reason to allow more
        if num_tokens < 2:
            return False
        if self._limit is not None:
            self._patience *= 2
        self._limit = num_tokens // 2
        self._num_full = 0
        return True
