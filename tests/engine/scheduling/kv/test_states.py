"""StateAllocator: which entries of a table a step gets, also where states are short."""

import pytest

from engine.scheduling.kv.block_pool import BlockPool
from engine.scheduling.kv.groups import NO_BLOCK, KVGroup
from engine.scheduling.kv.states import StateAllocator, source_state
from engine.scheduling.sequence import Sequence
from tests.helpers.engines import make_prompt, make_request

pytestmark = pytest.mark.fast

SIZE = 4


def sequence_at(pool: BlockPool, num_computed: int, num_tokens: int = 40) -> Sequence:
    """A sequence that has the state after `num_computed` tokens, and nothing else."""
    prompt = make_prompt(num_tokens)
    table = [NO_BLOCK] * (-(-num_computed // SIZE) - 1) + pool.allocate(1) if num_computed else []
    return Sequence(
        request=make_request("a", prompt),
        seed=0,
        tokens=prompt,
        num_prompt=num_tokens,
        num_computed=num_computed,
        tables=[table],
    )


def allocator_of(pool: BlockPool, *, saves_checkpoints: bool = True) -> StateAllocator:
    return StateAllocator(pool, KVGroup(SIZE, is_state=True), 0, saves_checkpoints=saves_checkpoints)


def test_a_step_gets_an_entry_for_its_end_and_one_for_the_last_full_block() -> None:
    pool = BlockPool(5)
    sequence = sequence_at(pool, 6)
    allocator_of(pool).allocate(sequence, 18)
    assert [block != NO_BLOCK for block in sequence.tables[0]] == [False, True, False, True, True]


def test_branches_get_checkpoints_as_far_as_there_are_states() -> None:
    pool = BlockPool(4)
    sequence = sequence_at(pool, 0)
    sequence.branch_points = (2, 3, 1)
    allocator_of(pool).allocate(sequence, 18)
    assert [block != NO_BLOCK for block in sequence.tables[0]] == [False, True, True, True, True]


def test_without_a_free_state_the_new_one_takes_the_old_ones_place() -> None:
    pool = BlockPool(1)
    sequence = sequence_at(pool, 6)
    allocator = allocator_of(pool)
    assert allocator.can_allocate(sequence, 18)
    allocator.allocate(sequence, 18)
    assert sequence.tables[0] == [NO_BLOCK] * 4 + [0]
    assert source_state(sequence.tables[0], 6, 18, SIZE) == 0


def test_an_entry_that_was_moved_does_not_become_a_checkpoint() -> None:
    pool = BlockPool(2)
    (other,) = pool.allocate(1)
    sequence = sequence_at(pool, 6)
    allocator = allocator_of(pool)
    allocator.allocate(sequence, 18)
    pool.free([other])
    allocator.allocate_checkpoint(sequence, 2)
    assert sequence.tables[0][1] == NO_BLOCK
    allocator.allocate_checkpoint(sequence, 3)
    assert sequence.tables[0][2] == other


def test_a_state_that_others_start_from_is_not_moved() -> None:
    pool = BlockPool(1)
    sequence = sequence_at(pool, 8)
    (block,) = (block for block in sequence.tables[0] if block != NO_BLOCK)
    pool.register(block, b"x")
    allocator = allocator_of(pool)
    assert allocator.can_allocate(sequence, 9)
    pool.share([block])
    assert not allocator.can_allocate(sequence, 9)


def test_a_draft_has_an_entry_for_every_end() -> None:
    pool = BlockPool(9)
    sequence = sequence_at(pool, 7, num_tokens=8)
    allocator = allocator_of(pool)
    allocator.allocate(sequence, 14)  # accepted: at least the 8th token, at most 6 drafted ones
    assert [block != NO_BLOCK for block in sequence.tables[0]] == [False, True, True, True]
    assert not allocator_of(BlockPool(1)).can_allocate(sequence, 22)


def test_without_checkpoints_one_state_moves_along() -> None:
    pool = BlockPool(9)
    sequence = sequence_at(pool, 8)
    allocator_of(pool, saves_checkpoints=False).allocate(sequence, 18)
    assert pool.num_used == 1
