"""WriteThrough: saves blocks to a tier as they are computed, so that they outlive the engine's process."""

from collections import abc

from engine.scheduling.kv.block_pool import BlockPool
from engine.scheduling.kv.groups import NO_BLOCK, KVGroup
from engine.scheduling.kv.moves import PendingMoves
from engine.scheduling.sequence import Sequence


class WriteThrough:
    """Plans saves of clients' blocks; batches' blocks are left out."""

    def __init__(self, moves: PendingMoves) -> None:
        self._moves = moves

    def on_registered(self, sequence: Sequence, group: KVGroup, block: int, key: bytes) -> None:
        """Save a block that has become full.

        At once, and not when the sequence ends, so that no step has to copy a whole context. Blocks of windows wait
        until they leave the window or the sequence ends, since most of them are never needed again.
        """
        if group.is_full_attention and _is_kept(sequence):
            self._moves.keep(block, key)

    def on_left_window(self, sequence: Sequence, block: int, pool: BlockPool) -> None:
        """Save a block that fell out of a window, and that a prefix hit is likely to need."""
        if _is_kept(sequence) and (key := pool.digest(block)) is not None:
            self._moves.keep(block, key)

    def on_freed(self, sequence: Sequence, pools: abc.Iterable[BlockPool]) -> None:
        """Save what is left of a sequence's blocks, which are about to become free. What the tier has counts as used
        again, so that its bound keeps the prefixes that requests find in the pool."""
        if not _is_kept(sequence):
            return
        for table, pool in zip(sequence.tables, pools, strict=True):
            for block in table:
                if block != NO_BLOCK and (key := pool.digest(block)) is not None:
                    self._moves.keep(block, key)


def _is_kept(sequence: Sequence) -> bool:
    service = sequence.service
    return service.stays_cached and not service.is_evicted_first
