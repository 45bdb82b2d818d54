"""PoolingStepSize: limits the tokens of the next batch, from the measured times of earlier ones."""

from engine.protocol import ServiceClass
from engine.scheduling.fairness.service_rules import SERVICE_RULES

# A batch is not interrupted, so the next text may wait this long. Larger batches are hardly faster a token.
_TARGET_S = 0.25
_YIELDING_TARGET_S = 0.05
_MIN_TOKENS, _MAX_TOKENS = 256, 16384
_MIN_SAMPLE = 64  # tokens; smaller batches measure the cost of a batch rather than of a token
_SHARE = 0.2  # of the last batch in the estimate


class PoolingStepSize:
    def __init__(self, max_tokens: int | None) -> None:
        """max_tokens: limit of every batch; None adapts it to a duration of 250 ms, or 50 ms for classes that yield."""
        self._max_tokens = max_tokens
        self._limit = _MAX_TOKENS
        self.seconds_per_token = 0.0  # 0 is unknown

    def tokens(self, service_class: ServiceClass) -> int:
        """Return the token limit of a batch whose first text has this class. A single longer text may exceed it."""
        if self._max_tokens is not None:
            return min(self._limit, self._max_tokens)
        if not self.seconds_per_token:
            return min(self._limit, _MIN_TOKENS)
        yields = SERVICE_RULES[service_class].yields_immediately
        target_s = _YIELDING_TARGET_S if yields else _TARGET_S
        return min(self._limit, max(_MIN_TOKENS, int(target_s / self.seconds_per_token)))

    @property
    def most(self) -> int:
        """Largest token limit that a batch of any class can have."""
        return min(self._limit, self._max_tokens or _MAX_TOKENS)

    def observe(self, num_tokens: int, seconds: float) -> None:
        if num_tokens < _MIN_SAMPLE:
            return
        sample = seconds / num_tokens
        known = self.seconds_per_token
        self.seconds_per_token = sample if not known else known + _SHARE * (sample - known)

    def shrink(self, num_tokens: int) -> bool:
        """Halve the limit after a batch of `num_tokens` ran out of memory. Returns False if it had only one token."""
        if num_tokens <= 1:
            return False
        self._limit = max(1, num_tokens // 2)
        return True
