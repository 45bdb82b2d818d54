"""StateTables: which entries of a table a step gets, where states are short."""

import pytest

from engine.scheduling.kv.block_pool import BlockPool
from engine.scheduling.kv.groups import NO_BLOCK, KVGroup
from engine.scheduling.kv.states import StateTables, state_before
from engine.scheduling.sequence import Sequence
from tests.helpers.engines import make_prompt, make_request

pytestmark = pytest.mark.fast

SIZE = 4


def sequence_at(pool: BlockPool, num_computed: int, num_tokens: int = 40) -> Sequence:
    """A sequence that holds the state after `num_computed` tokens, and nothing else."""
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


def tables_of(pool: BlockPool, *, takes_checkpoints: bool = True) -> StateTables:
    return StateTables(pool, KVGroup(SIZE, is_state=True), 0, takes_checkpoints=takes_checkpoints)


def test_a_step_gets_a_place_for_its_end_and_one_for_the_last_full_block() -> None:
    pool = BlockPool(5)
    sequence = sequence_at(pool, 6)
    tables_of(pool).grow(sequence, 18)
    assert [block != NO_BLOCK for block in sequence.tables[0]] == [False, True, False, True, True]


def test_branches_get_checkpoints_as_far_as_there_are_states() -> None:
    pool = BlockPool(4)
    sequence = sequence_at(pool, 0)
    sequence.branch_blocks = (2, 3, 1)
    tables_of(pool).grow(sequence, 18)
    assert [block != NO_BLOCK for block in sequence.tables[0]] == [False, True, True, True, True]


def test_where_no_state_is_free_the_new_one_takes_the_old_ones_place() -> None:
    pool = BlockPool(1)
    sequence = sequence_at(pool, 6)
    tables = tables_of(pool)
    assert tables.fits(sequence, 18)
    tables.grow(sequence, 18)
    assert sequence.tables[0] == [NO_BLOCK] * 4 + [0]
    assert state_before(sequence, sequence.tables[0], 18, SIZE) == 0


def test_a_place_that_was_given_up_does_not_become_a_checkpoint() -> None:
    pool = BlockPool(2)
    (other,) = pool.allocate(1)
    sequence = sequence_at(pool, 6)
    tables = tables_of(pool)
    tables.grow(sequence, 18)
    pool.free([other])
    tables.take_checkpoint(sequence, 2)
    assert sequence.tables[0][1] == NO_BLOCK
    tables.take_checkpoint(sequence, 3)
    assert sequence.tables[0][2] == other


def test_a_state_that_others_start_from_stays() -> None:
    pool = BlockPool(1)
    sequence = sequence_at(pool, 8)
    (block,) = (block for block in sequence.tables[0] if block != NO_BLOCK)
    pool.register(block, b"x")
    tables = tables_of(pool)
    assert tables.fits(sequence, 9)
    pool.share([block])
    assert not tables.fits(sequence, 9)


def test_a_draft_has_a_place_for_every_end() -> None:
    pool = BlockPool(9)
    sequence = sequence_at(pool, 7, num_tokens=8)
    tables = tables_of(pool)
    tables.grow(sequence, 14)  # accepted: at least the 8th token, at most 6 drafted ones
    assert [block != NO_BLOCK for block in sequence.tables[0]] == [False, True, True, True]
    assert not tables_of(BlockPool(1)).fits(sequence, 22)


def test_without_checkpoints_one_state_moves_along() -> None:
    pool = BlockPool(9)
    sequence = sequence_at(pool, 8)
    tables_of(pool, takes_checkpoints=False).grow(sequence, 18)
    assert pool.num_used == 1
