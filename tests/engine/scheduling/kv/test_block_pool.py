"""BlockPool: references, the order of reuse, and the table of cached prefixes."""

import pytest

from engine.scheduling.kv.block_pool import BlockPool, EvictionTally

pytestmark = pytest.mark.fast


def digest(number: int) -> bytes:
    return number.to_bytes(16)


def cached_pool(num_blocks: int) -> BlockPool:
    """A pool whose blocks are all free and cached, block i under digest(i), freed in the order 0, 1, ..."""
    pool = BlockPool(num_blocks)
    blocks = pool.allocate(num_blocks)
    for block in blocks:
        pool.register(block, digest(block))
    for block in blocks:
        pool.free([block])
    return pool


def test_allocate_takes_distinct_blocks() -> None:
    pool = BlockPool(4)
    blocks = pool.allocate(3)
    assert sorted(set(blocks)) == sorted(blocks)
    assert (pool.num_free, pool.num_used) == (1, 3)
    pool.check()


def test_shared_blocks_are_those_with_several_references() -> None:
    pool = cached_pool(3)
    counts = [pool.num_shared]
    for change in (pool.share, pool.share, pool.share, pool.free, pool.free, pool.free):
        change([0, 1])
        pool.check()
        counts.append(pool.num_shared)
    assert counts == [0, 0, 2, 2, 2, 0, 0]


def test_allocate_evicts_the_least_recently_freed_prefix_first() -> None:
    pool = cached_pool(4)
    pool.share([0])
    pool.free([0])
    assert pool.allocate(3) == [1, 2, 3]
    assert pool.find(digest(0)) == 0
    assert pool.find(digest(1)) is None
    pool.check()


def test_allocate_prefers_blanks_to_cached_prefixes() -> None:
    pool = BlockPool(3)
    blocks = pool.allocate(3)
    pool.register(blocks[0], digest(0))
    pool.free(blocks)
    assert pool.num_free_cached == 1
    pool.allocate(2)
    assert pool.find(digest(0)) == blocks[0]
    pool.check()


def test_free_puts_the_tail_of_a_table_first_in_line_for_eviction() -> None:
    pool = BlockPool(3)
    table = pool.allocate(3)
    for block in table:
        pool.register(block, digest(block))
    pool.free(table)
    assert pool.allocate(2) == [table[2], table[1]]
    assert pool.find(digest(table[0])) == table[0]


def test_share_revives_a_free_block_and_counts_holders() -> None:
    pool = cached_pool(2)
    pool.share([1])
    pool.share([1])
    assert (pool.references(1), pool.num_free, pool.num_free_cached) == (2, 1, 1)
    pool.free([1])
    assert not pool.is_free(1)
    pool.free([1])
    assert pool.is_free(1)
    assert pool.find(digest(1)) == 1
    pool.check()


def test_register_keeps_the_first_of_two_equal_blocks() -> None:
    pool = BlockPool(2)
    first, second = pool.allocate(2)
    pool.register(first, digest(7))
    pool.register(second, digest(7))
    assert pool.find(digest(7)) == first
    assert pool.digest(second) is None
    pool.check()


def test_unregister_makes_a_block_blank_once_it_is_free() -> None:
    pool = BlockPool(1)
    (block,) = pool.allocate(1)
    pool.register(block, digest(7))
    pool.unregister(block)
    assert pool.find(digest(7)) is None
    pool.free([block])
    assert pool.num_free_cached == 0
    pool.check()


def test_misuse_is_an_assertion() -> None:
    pool = BlockPool(2)
    (block,) = pool.allocate(1)
    with pytest.raises(AssertionError, match="has no known prefix"):
        pool.share([block])
    with pytest.raises(AssertionError, match="2 blocks requested, 1 free"):
        pool.allocate(2)
    pool.free([block])
    with pytest.raises(AssertionError, match="freed twice"):
        pool.free([block])


def test_check_finds_a_lost_block() -> None:
    pool = BlockPool(2)
    pool._references[0] = 1
    with pytest.raises(AssertionError):
        pool.check()


def test_whole_conversations_go_before_the_head_that_they_share() -> None:
    """Three conversations with a system prompt of two blocks, one after the other; the least recent goes first."""
    pool = BlockPool(11)
    head = pool.allocate(2)
    tails = [pool.allocate(3) for _ in range(3)]
    for block in [*head, *(block for tail in tails for block in tail)]:
        pool.register(block, bytes([block]))
    pool.free([*head, *tails[0]])
    for tail in tails[1:]:
        pool.share(head)
        pool.free([*head, *tail])
    order = pool.allocate(11)
    assert order == [*reversed(tails[0]), *reversed(tails[1]), *reversed(tails[2]), *reversed(head)]


def test_evicted_blocks_report_how_long_they_were_free() -> None:
    now_s = 0.0
    evicted = EvictionTally(lambda: now_s)
    pool = BlockPool(4, clock=lambda: now_s, on_evicted=evicted.add)
    blocks = pool.allocate(3)
    for block in blocks:
        pool.register(block, bytes([block]))
    now_s = 10.0
    pool.free(blocks[:1])
    now_s = 12.0
    pool.free(blocks[1:])
    assert evicted.take() == []
    pool.allocate(1)  # the blank one
    assert evicted.take() == []
    now_s = 15.0
    pool.allocate(3)
    assert evicted.take() == [(5.0, 1), (3.0, 2)]
    assert evicted.take() == []


def test_an_evicted_block_is_reported_with_its_digest() -> None:
    evicted: list[tuple[int, bytes]] = []
    pool = BlockPool(2, on_evicted=lambda block, digest, *_: evicted.append((block, digest)))
    blocks = pool.allocate(2)
    for block, digest in zip(blocks, (b"a", b"b"), strict=True):
        pool.register(block, digest)
    pool.free(blocks)

    pool.allocate(1)

    assert evicted == [(blocks[1], b"b")]


def test_a_shared_block_is_not_evicted() -> None:
    evicted = EvictionTally()
    pool = BlockPool(1, on_evicted=evicted.add)
    (block,) = pool.allocate(1)
    pool.register(block, b"a")
    pool.free([block])
    pool.share([block])
    pool.free([block])
    assert evicted.take() == []
