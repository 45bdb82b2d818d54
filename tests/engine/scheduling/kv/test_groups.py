"""KV groups: what a window needs, and what a prefix hit needs of each group."""

import math

import pytest

from engine.scheduling.kv.groups import KVGroup, peak_blocks
from tests.helpers.engines import SchedulerRun, expected_ids, make_config, make_prompt, make_request

pytestmark = pytest.mark.fast


def test_a_window_needs_what_the_next_token_sees() -> None:
    group = KVGroup(block_size=4, window=6)
    assert [group.first_needed_entry(n) for n in (0, 5, 8, 9, 13)] == [0, 0, 0, 1, 2]
    assert peak_blocks((KVGroup(4), group), 1000) == 250 + 3


def test_chunks_need_what_the_next_token_sees() -> None:
    group = KVGroup(block_size=4, window=6, is_chunked=True)
    assert [group.first_needed_entry(n) for n in (0, 5, 6, 11, 12, 17)] == [0, 0, 1, 1, 3, 3]
    assert peak_blocks((group,), 1000) == 3


@pytest.mark.parametrize("window", [6, -6])
def test_a_long_sequence_runs_in_a_small_pool_of_windows(window: int) -> None:
    run = SchedulerRun(make_config(num_blocks=6, windows=(window,), max_num_batched_tokens=16))
    request = make_request("a", make_prompt(90), max_tokens=200, ignore_eos=True)
    assert run.run([request]).ids == {"a": expected_ids(request)}
    assert max(stats.blocks_used for stats in run.stats) <= 6


@pytest.mark.parametrize("ratios", [(2, 1), (1, 2), (3, 2)])
def test_a_long_sequence_needs_of_small_blocks_only_its_window(ratios: tuple[int, int]) -> None:
    config = make_config(num_blocks=200, windows=(None, 10), ratios=ratios, max_num_batched_tokens=16)
    run = SchedulerRun(config)
    request = make_request("a", make_prompt(300), max_tokens=40, ignore_eos=True)
    assert run.run([request]).ids == {"a": expected_ids(request)}
    used = max(stats.blocks_used for stats in run.stats)
    assert used <= -(-340 // (4 * ratios[0])) + -(-26 // (4 * ratios[1])) + 1  # a window, and the rows of a step


@pytest.mark.parametrize("ratios", [(2, 1), (1, 2), (3, 2)])
def test_prefixes_are_found_in_whole_blocks_of_all_groups(ratios: tuple[int, int]) -> None:
    run = SchedulerRun(make_config(num_blocks=200, windows=(None, 10), ratios=ratios, max_num_batched_tokens=16))
    prompt = make_prompt(60)
    first = run.run([make_request("a", prompt, max_tokens=1)])
    transcript = run.run([make_request("b", [*prompt, 1], max_tokens=1)])
    unit = 4 * math.lcm(*ratios)
    assert first.last["a"].num_written_tokens == transcript.last["b"].num_cached_tokens == 60 // unit * unit
    assert transcript.last["b"].num_written_tokens == 0


def test_a_hit_needs_of_a_window_only_its_last_blocks() -> None:
    run = SchedulerRun(make_config(num_blocks=40, windows=(None, 6)))
    prompt = make_prompt(32)
    run.scheduler.add(make_request("a", prompt, max_tokens=1))
    sequence = run.scheduler._lifecycle.sequences["a"]
    run.finish()
    pool = run.scheduler._kv.pool
    for digest in sequence.unit_hashes[:6]:
        lost = pool.find(digest + (1).to_bytes(2))
        assert lost is not None
        pool.unregister(lost)
    transcript = run.run([make_request("b", [*prompt, 1], max_tokens=1)])
    assert transcript.last["b"].num_cached_tokens == 32


@pytest.mark.parametrize(("num_shared", "forgotten"), [(28, range(4)), (32, range(8))])
def test_a_hit_needs_of_chunks_nothing_before_the_current_one(num_shared: int, forgotten: range) -> None:
    run = SchedulerRun(make_config(num_blocks=40, windows=(None, -16)))
    prompt = make_prompt(32)
    run.scheduler.add(make_request("a", prompt, max_tokens=1))
    sequence = run.scheduler._lifecycle.sequences["a"]
    run.finish()
    pool = run.scheduler._kv.pool
    for index in forgotten:
        lost = pool.find(sequence.unit_hashes[index] + (1).to_bytes(2))
        assert lost is not None
        pool.unregister(lost)
    transcript = run.run([make_request("b", [*prompt[:num_shared], 1], max_tokens=1)])
    assert transcript.last["b"].num_cached_tokens == num_shared


def test_a_hit_is_as_long_as_every_group_allows() -> None:
    run = SchedulerRun(make_config(num_blocks=40, windows=(None, 6)))
    prompt = make_prompt(32)
    run.scheduler.add(make_request("a", prompt, max_tokens=1))
    sequence = run.scheduler._lifecycle.sequences["a"]
    run.finish()
    pool = run.scheduler._kv.pool
    lost = pool.find(sequence.unit_hashes[6] + (1).to_bytes(2))  # of group 1, in the window of all hits from 28 on
    assert lost is not None
    pool.unregister(lost)
    transcript = run.run([make_request("b", [*prompt, 1], max_tokens=1)])
    assert transcript.last["b"].num_cached_tokens == 24


def test_blocks_at_a_branch_point_outlive_others_out_of_the_window() -> None:
    run = SchedulerRun(make_config(num_blocks=30, windows=(None, 6), max_num_batched_tokens=8))
    shared = make_prompt(16)
    run.run([make_request("a", shared, max_tokens=40, ignore_eos=True)])  # 9 blocks fall out of its window
    run.run([make_request("b", make_prompt(24, seed=1), max_tokens=1)])  # evicts the blocks out of the window first
    transcript = run.run([make_request("c", [*shared, 1], max_tokens=1)])
    assert transcript.last["c"].num_cached_tokens == 16
