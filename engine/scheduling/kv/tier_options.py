"""TierOptions: a tier and the sizes that its use needs; ReadPace: how long a read from it takes."""

from collections import abc
from dataclasses import dataclass, field

from engine.kv_tiers.tier import BlockTier, most_read_bytes
from engine.scheduling.kv.moves import AttachedTier

_FIRST_RATE = 500e6  # bytes per second, before anything was read
_RATE_WEIGHT = 0.5  # of the latest read
_PATIENCE = 1.1  # growth of a low rate for each read that it prevents, so that a slow moment has no lasting effect
_LATENCY_S = 0.005  # added to a read: a thread, and a step that begins only then


@dataclass(frozen=True, slots=True)
class TierOptions:
    """A tier, and the sizes that its use needs.

    block_bytes: bytes of a block of each KV group. max_read_bytes: bound on the blocks that are being read, or are read
    and wait for their sequence's admission. prefill_s: returns the seconds to compute tokens of a prompt, by the first
    position and their number. on_read: called when `TierReads.collect` has a result, by any thread.
    writes_through: see AttachedTier.
    """

    tier: BlockTier
    block_bytes: tuple[int, ...]
    max_read_bytes: int
    prefill_s: abc.Callable[[int, int], float]
    on_read: abc.Callable[[], None] = lambda: None
    writes_through: bool = False

    @classmethod
    def of_pool(
        cls, attached: AttachedTier, num_blocks: int, prefill_s: abc.Callable[[int, int], float]
    ) -> "TierOptions":
        """Return the options for a pool of `num_blocks` blocks, a part of whose size may be read ahead."""
        block_bytes = attached.mover.block_bytes
        max_read_bytes = most_read_bytes(max(block_bytes) * num_blocks)
        return cls(attached.tier, block_bytes, max_read_bytes, prefill_s, attached.on_read, attached.writes_through)


@dataclass(slots=True)
class ReadPace:
    """Estimate of how long a read takes, from past reads."""

    rate: float = field(default=_FIRST_RATE)  # bytes per second

    def seconds(self, num_bytes: int) -> float:
        return _LATENCY_S + num_bytes / self.rate

    def observe(self, num_bytes: int, seconds: float) -> None:
        self.rate += (num_bytes / max(seconds, 1e-6) - self.rate) * _RATE_WEIGHT

    def pass_over(self) -> None:
        """Record that a read seemed too slow and was not made."""
        self.rate = max(self.rate, min(self.rate * _PATIENCE, _FIRST_RATE))
