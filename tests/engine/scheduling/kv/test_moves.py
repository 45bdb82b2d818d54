"""Moves of blocks: what is saved and loaded before a step, and in which order."""

import pytest

from engine.scheduling.kv.moves import AttachedTier, BlockLoad, BlockMoves, BlockSave, PendingMoves
from engine.scheduling.kv.prefixes import group_key
from tests.helpers.memory_tier import MemoryTier

pytestmark = pytest.mark.fast

KEYS = [group_key(group, bytes([group]) * 16) for group in range(3)]


SAVES = [BlockSave(group, 7 + group, key) for group, key in enumerate(KEYS)]


class SizedMover:
    """Copies blocks of a group's own size; a copy may fail."""

    block_bytes = (100, 300, 100)

    def __init__(self, error: Exception | None = None) -> None:
        self.copied: list[BlockSave] = []
        self._error = error

    def save(self, saves: list[BlockSave]) -> list[bytes]:
        if self._error is not None:
            raise self._error
        self.copied += saves
        return [bytes(self.block_bytes[save.group]) for save in saves]

    def load(self, loads: list[BlockLoad]) -> None:
        raise AssertionError(loads)


def make_moves(tier: MemoryTier) -> PendingMoves:
    return PendingMoves(tier, lambda *_: None)


def test_evicted_blocks_are_saved_once() -> None:
    moves = make_moves(MemoryTier())
    moves.evict(7, KEYS[1], 0.0, False)
    taken = moves.take()
    assert taken is not None
    assert taken.saves == [BlockSave(1, 7, KEYS[1])]
    assert moves.take() is None


def test_a_block_that_the_tier_has_counts_as_used_and_is_not_saved() -> None:
    tier = MemoryTier()
    tier.write([(key, b"content") for key in KEYS])
    moves = make_moves(tier)
    moves.evict(7, KEYS[1], 0.0, False)
    assert moves.take() is None
    assert list(tier.blocks)[-1] == KEYS[1]


def test_blocks_of_low_priority_are_not_saved() -> None:
    moves = make_moves(MemoryTier())
    moves.evict(7, KEYS[1], 0.0, True)
    assert moves.take() is None


def test_a_block_that_is_evicted_before_it_is_loaded_is_neither_loaded_nor_saved() -> None:
    """Its memory has other content still, which must not get its key."""
    moves = make_moves(MemoryTier())
    moves.load(7, KEYS[1], b"content")
    moves.evict(7, KEYS[1], 0.0, False)
    assert moves.take() is None


def test_a_block_can_be_saved_and_then_loaded_with_other_content() -> None:
    moves = make_moves(MemoryTier())
    moves.evict(7, KEYS[1], 0.0, False)
    moves.load(7, KEYS[2], b"content")
    taken = moves.take()
    assert taken is not None
    assert taken.saves == [BlockSave(1, 7, KEYS[1])]
    assert taken.loads == [BlockLoad(2, 7, b"content")]


def test_discarded_blocks_are_not_saved() -> None:
    moves = make_moves(MemoryTier())
    for block, key in enumerate(KEYS):
        moves.evict(block, key, 0.0, False)
    moves.discard({KEYS[0], KEYS[2]})
    taken = moves.take()
    assert taken is not None
    assert [save.key for save in taken.saves] == [KEYS[1]]


def test_blocks_beyond_the_tiers_room_are_counted_and_not_copied() -> None:
    tier, mover = MemoryTier(room_bytes=399), SizedMover()
    AttachedTier(tier, mover).move(BlockMoves(SAVES, []))
    assert mover.copied == [SAVES[0], SAVES[2]]
    assert list(tier.blocks) == [KEYS[0], KEYS[2]]
    assert tier.num_dropped == 1


def test_blocks_whose_copies_find_no_memory_are_not_kept(caplog: pytest.LogCaptureFixture) -> None:
    tier = MemoryTier()
    AttachedTier(tier, SizedMover(MemoryError())).move(BlockMoves(SAVES, []))
    assert not tier.blocks
    assert "memory ran out while 3 evicted blocks were copied" in caplog.text
