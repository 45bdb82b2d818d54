"""BlockTier: storage for blocks of the KV cache that its pool evicts, such as a disk. The engine names blocks by the
pool's keys (engine/scheduling/kv/prefixes.py); the content of a block is opaque to a tier."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

QUEUE_BYTES = 256 << 20  # of contents that wait to be written
# Bound on blocks that are read and not yet in the pool: a part of the pool, and bytes.
_READ_SHARE, _MAX_READ_BYTES = 4, 2 << 30


@dataclass(frozen=True, slots=True)
class TierStats:
    """Counts of a tier since its last `take_stats()`, and the size of its blocks now."""

    bytes: int = 0  # of all blocks in the tier
    hits: int = 0  # blocks that were read
    misses: int = 0  # blocks that a read did not find intact
    read_s: float = 0.0
    write_s: float = 0.0
    failures: int = 0  # blocks that could not be read or written, or were altered
    dropped: int = 0  # blocks that were not written because the queue of writes was full


def most_read_bytes(cache_bytes: int) -> int:
    """Return the bound on blocks that are being read, or are read and not yet in a KV cache of `cache_bytes`."""
    return min(cache_bytes // _READ_SHARE, _MAX_READ_BYTES)


def most_moving_bytes(cache_bytes: int) -> int:
    """Return the most host memory that blocks on their way to and from a tier take beside a KV cache."""
    return QUEUE_BYTES + most_read_bytes(cache_bytes)


class BlockTier(Protocol):
    """Storage of blocks by key. All methods are called by the engine's thread, and only `close` waits for I/O.

    A fault of the storage is a miss, a count and a warning, never an exception.
    """

    def contains(self, keys: Sequence[bytes]) -> list[bool]:
        """Return for each key whether a block is stored or queued to be written, from an index in memory."""
        ...

    def num_stored(self, keys: Sequence[bytes]) -> int:
        """Return how many of these blocks are stored, not counting those that are queued to be written or checked."""
        ...

    def read(self, keys: Sequence[bytes]) -> "Future[list[bytes | None]]":
        """Start to read blocks. Returns their contents in the order of the keys; None for a block that is missing, torn
        or altered. The future may be completed by another thread. Canceling it is allowed, and may have no effect."""
        ...

    @property
    def room_bytes(self) -> int:
        """Bytes of contents that `write` takes now."""
        ...

    def write(self, blocks: Sequence[tuple[bytes, bytes]]) -> None:
        """Queue (key, content) of blocks. Blocks beyond the bound of the queue are dropped and counted."""
        ...

    def count_dropped(self, num_blocks: int) -> None:
        """Count blocks that the caller did not even copy, because there was no room."""
        ...

    def touch(self, keys: Sequence[bytes], *, is_checked: bool = False) -> None:
        """Count stored blocks as used now, because requests used them in the pool. Unknown keys are ignored.

        is_checked: do not count them as stored before their files have been looked for.
        """
        ...

    def remove(self, keys: Sequence[bytes]) -> None:
        """Forget blocks, queued ones too, because their contents may be wrong. Unknown keys are ignored."""
        ...

    def take_stats(self) -> TierStats:
        """Return the counts since the last call."""
        ...

    def close(self, timeout_s: float) -> None:
        """Finish the queued writes, for at most this long. Pending reads complete with None for each block."""
        ...
