"""KV groups: which layers share tables, what a window needs, and what a prefix hit needs of each group."""

import dataclasses

import pytest

from engine.scheduling.kv.groups import KVGroup, peak_blocks
from models.architecture.attention import AttentionSpec
from models.architecture.recurrence import ShortConvSpec
from models.kv.groups import LayerGroup, group_layers
from tests.helpers.engines import SchedulerRun, expected_ids, make_config, make_prompt, make_request

pytestmark = pytest.mark.fast


def attention(window: int | None, head_dim: int = 16) -> AttentionSpec:
    return AttentionSpec(2, 1, head_dim, 1.0, sliding_window=window)


def sizes(windows: list[int | None]) -> list[tuple[int | None, int]]:
    return [(group.window, len(group.layers)) for group in group_layers([attention(window) for window in windows])]


def test_layers_that_see_alike_share_one_group() -> None:
    assert sizes([None] * 30) == [(None, 30)]
    assert sizes([4096] * 32) == [(4096, 32)]


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        ([128, None] * 12, [(None, 12), (128, 12)]),  # gpt-oss
        (([512] * 5 + [None]) * 4 + [512] * 2, [(None, 4), *[(512, 4)] * 5, (512, 2)]),  # Gemma 3 1B
        (([1024] * 5 + [None]) * 10 + [1024] * 2, [(None, 10), *[(1024, 10)] * 5, (1024, 2)]),  # Gemma 3 27B
    ],
)
def test_groups_are_of_equal_size_and_full_attention_wastes_nothing(
    windows: list[int | None], expected: list[tuple[int | None, int]]
) -> None:
    assert sizes(windows) == expected


def test_layers_of_different_shapes_share_a_group_of_full_attention() -> None:
    specs = [attention(None, 16), attention(8, 32)]
    assert group_layers(specs) == (LayerGroup(None, (0, 1)),)


def test_recurrent_layers_are_the_last_group_and_no_part_of_the_others() -> None:
    mixers = [ShortConvSpec(64, 3), attention(8), ShortConvSpec(64, 3), attention(None)]
    assert group_layers(mixers) == (
        LayerGroup(None, (3,)),
        LayerGroup(8, (1,)),
        LayerGroup(None, (0, 2), is_state=True),
    )


def test_a_window_needs_what_the_next_token_sees() -> None:
    group = KVGroup(block_size=4, window=6)
    assert [group.first_needed_entry(n) for n in (0, 5, 8, 9, 13)] == [0, 0, 0, 1, 2]
    assert peak_blocks((KVGroup(4), group), 1000) == 250 + 3


def test_chunks_need_what_the_next_token_sees() -> None:
    group = KVGroup(block_size=4, window=6, is_chunked=True)
    assert [group.first_needed_entry(n) for n in (0, 5, 6, 11, 12, 17)] == [0, 0, 1, 1, 3, 3]
    assert peak_blocks((group,), 1000) == 3


def test_layers_in_chunks_are_no_layers_with_a_window() -> None:
    specs = [attention(8), dataclasses.replace(attention(None), chunk=8), attention(None)]
    assert group_layers(specs) == (LayerGroup(None, (2,)), LayerGroup(8, (0,)), LayerGroup(8, (1,), is_chunked=True))


@pytest.mark.parametrize("window", [6, -6])
def test_a_long_sequence_runs_in_a_small_pool_of_windows(window: int) -> None:
    run = SchedulerRun(make_config(num_blocks=6, windows=(window,), max_num_batched_tokens=16))
    request = make_request("a", make_prompt(90), max_tokens=200, ignore_eos=True)
    assert run.run([request]).ids == {"a": expected_ids(request)}
    assert max(stats.blocks_used for stats in run.stats) <= 6


def test_a_hit_needs_of_a_window_only_its_last_blocks() -> None:
    run = SchedulerRun(make_config(num_blocks=40, windows=(None, 6)))
    prompt = make_prompt(32)
    run.scheduler.add(make_request("a", prompt, max_tokens=1))
    sequence = run.scheduler._lifecycle.sequences["a"]
    run.finish()
    pool = run.scheduler._kv.pool
    for digest in sequence.block_hashes[:6]:
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
        lost = pool.find(sequence.block_hashes[index] + (1).to_bytes(2))
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
    lost = pool.find(sequence.block_hashes[6] + (1).to_bytes(2))  # of group 1, in the window of all hits from 28 on
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
