"""BlockMoves: blocks copied out of the KV cache and into it before a step, and WriteThrough, which saves early."""

import logging
from collections import abc
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from engine.kv_tiers.tier import BlockTier
from engine.scheduling.kv.block_pool import BlockPool, OnEvicted
from engine.scheduling.kv.groups import NO_BLOCK, KVGroup
from engine.scheduling.kv.prefixes import group_of_key
from engine.scheduling.sequence import Sequence

logger = logging.getLogger(__name__)


class BlockSave(NamedTuple):
    """An evicted block of a KV group, whose content goes to the tier under its key."""

    group: int
    block: int
    key: bytes


class BlockLoad(NamedTuple):
    """A block of a KV group, and the content that it gets."""

    group: int
    block: int
    content: bytes


class BlockMoves(NamedTuple):
    """Copies of blocks that precede a step: all saves, and then all loads, since a block may be in both."""

    saves: list[BlockSave]
    loads: list[BlockLoad]


class BlockMover(Protocol):
    """The part of a runner that copies blocks with keys and values, between two steps."""

    @property
    def block_bytes(self) -> tuple[int, ...]:
        """Bytes of a block's content, for each group."""

    def save(self, saves: list[BlockSave]) -> list[bytes]:
        """Return the contents of blocks. Raises MemoryError if memory runs out."""

    def load(self, loads: list[BlockLoad]) -> None:
        """Write contents that `save` has returned, perhaps in another process, to blocks of the same groups. Raises
        MemoryError if memory runs out."""


@dataclass(frozen=True, slots=True)
class AttachedTier:
    """A tier, and the runner whose blocks go there.

    on_read: called by another thread when blocks have been read. writes_through: save blocks when they are computed,
    and not only when they are evicted.
    """

    tier: BlockTier
    mover: BlockMover
    on_read: abc.Callable[[], None] = lambda: None
    writes_through: bool = False

    def move(self, moves: BlockMoves) -> bool:
        """Carry out the moves of a plan, before its step; return whether all blocks have been loaded."""
        if moves.saves:
            self._save(moves.saves)
        try:
            if moves.loads:
                self.mover.load(moves.loads)
        except MemoryError:
            logger.warning("memory ran out while %d blocks were loaded; they are computed again", len(moves.loads))
            return False
        return True

    def _save(self, wanted: list[BlockSave]) -> None:
        """Copy the blocks that the tier has room for, and give them to it."""
        saves, room_bytes, sizes = [], self.tier.room_bytes, self.mover.block_bytes
        for save in wanted:
            if sizes[save.group] <= room_bytes:
                saves.append(save)
                room_bytes -= sizes[save.group]
        if len(saves) < len(wanted):
            self.tier.count_dropped(len(wanted) - len(saves))
        try:
            contents = self.mover.save(saves)
        except MemoryError:  # then they are computed again when they are needed
            logger.warning("memory ran out while %d evicted blocks were copied; they are not kept", len(saves))
            return
        self.tier.write([(save.key, content) for save, content in zip(saves, contents, strict=True)])


class PendingMoves:
    """Collects the moves of the next step, while the step is planned.

    Blocks of low priority are not saved when they are evicted: those that fell out of windows, and those that only
    batches used. Blocks that shall outlive the process are saved earlier (`keep`).
    """

    def __init__(self, tier: BlockTier, on_evicted: OnEvicted) -> None:
        """on_evicted: called for each evicted block, before it is noted here."""
        self._tier = tier
        self._on_evicted = on_evicted
        self._evicted: dict[int, bytes] = {}  # keys by block
        self._loads: dict[int, BlockLoad] = {}  # by block

    def evict(self, block: int, key: bytes, freed_s: float, has_low_priority: bool) -> None:
        """Save a block before the next step overwrites it, unless its content is still to be loaded itself. Has the
        signature of the pool's `on_evicted` callback."""
        self._on_evicted(block, key, freed_s, has_low_priority)
        if self._loads.pop(block, None) is None and not has_low_priority:
            self._evicted[block] = key

    def keep(self, block: int, key: bytes) -> None:
        """Save a block with a known prefix, though it is not evicted, unless its content is still to be loaded."""
        if block not in self._loads:
            self._evicted.setdefault(block, key)

    def save_prefix(self, keys: abc.Sequence[bytes], pool: BlockPool) -> None:
        """Save the blocks of a prefix that the pool has. Those that the tier has count as used now, and it looks for
        their files."""
        for key in keys:
            if (block := pool.find(key)) is not None:
                self.keep(block, key)
        stored = [key for key, is_stored in zip(keys, self._tier.contains(keys), strict=True) if is_stored]
        self._tier.touch(stored, is_checked=True)

    def count_stored(self, keys: abc.Sequence[bytes], pool: BlockPool) -> tuple[int, int]:
        """Return how many blocks of a prefix the tier has stored, and how many neither it nor the pool has."""
        contained = zip(keys, self._tier.contains(keys), strict=True)
        num_missing = sum(not is_stored and pool.find(key) is None for key, is_stored in contained)
        return self._tier.num_stored(keys), num_missing

    def load(self, block: int, key: bytes, content: bytes) -> None:
        """Load a block, in use, before the next step reads it."""
        self._loads[block] = BlockLoad(group_of_key(key), block, content)

    def discard(self, keys: abc.Container[bytes]) -> None:
        """Save no blocks with these keys."""
        self._evicted = {block: key for block, key in self._evicted.items() if key not in keys}

    def take(self) -> BlockMoves | None:
        """Return the moves, and forget them; None if there are none. Blocks that the tier has are not saved again."""
        if not self._evicted and not self._loads:
            return None
        has = self._tier.contains(list(self._evicted.values()))
        stored = {key for key, is_stored in zip(self._evicted.values(), has, strict=True) if is_stored}
        if stored:
            self._tier.touch([key for key in self._evicted.values() if key in stored])
        saves = [BlockSave(group_of_key(key), block, key) for block, key in self._evicted.items() if key not in stored]
        moves = BlockMoves(saves, list(self._loads.values()))
        self._evicted, self._loads = {}, {}
        return moves if moves.saves or moves.loads else None


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
