"""Groups of layers: which share tables, and how many positions their blocks have."""

import dataclasses
from collections.abc import Sequence

import pytest
import torch

from models.architecture.attention import AttentionSpec
from models.architecture.kv_layout import KVLayout
from models.architecture.recurrence import RecurrenceSpec, ShortConvSpec
from models.attention.cpu import CpuAttention
from models.kv.groups import LayerGroup
from tests.helpers.checkpoints import cpu_compute


def attention(window: int | None, head_dim: int = 16, kv_heads: int = 1) -> AttentionSpec:
    return AttentionSpec(2 * kv_heads, kv_heads, head_dim, 1.0, sliding_window=window)


def grouped(mixers: Sequence[AttentionSpec | RecurrenceSpec]) -> tuple[LayerGroup, ...]:
    return cpu_compute(torch.bfloat16).cache_layout(mixers).groups


def sizes(windows: list[int | None]) -> list[tuple[int | None, int]]:
    return [(group.window, len(group.layers)) for group in grouped([attention(window) for window in windows])]


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


@pytest.mark.parametrize("window", [None, 8])
def test_layers_of_different_shapes_that_see_alike_share_one_group(window: int | None) -> None:
    assert grouped([attention(window, 16), attention(window, 48)]) == (LayerGroup(window, (0, 1)),)


def test_layers_with_small_positions_have_more_of_them_in_a_block() -> None:
    specs = [attention(8, 32), attention(None, 16), attention(8, 32), attention(None, 16, kv_heads=4)]
    layout = cpu_compute(torch.bfloat16).cache_layout(specs)
    assert layout.groups == (
        LayerGroup(None, (1,), block_ratio=4),
        LayerGroup(None, (3,), block_ratio=1),
        LayerGroup(8, (0,), block_ratio=2),
        LayerGroup(8, (2,), block_ratio=2),
    )
    assert layout.block_sizes(16) == (64, 16, 32, 32)
    largest = layout.layers[3]
    assert isinstance(largest, KVLayout)
    assert layout.block_bytes(16) == 16 * largest.position_bytes


@pytest.mark.parametrize(("kv_heads", "sizes"), [(1, (32, 16)), (2, (16, 16))])
def test_blocks_of_different_layouts_share_no_tile(kv_heads: int, sizes: tuple[int, int]) -> None:
    """Nor where their positions have the same size."""
    specs = [attention(None, 16, kv_heads), attention(8, 32)]
    layout = cpu_compute(torch.bfloat16, CpuAttention()).cache_layout(specs)
    assert layout.block_sizes(4) == sizes


def test_states_have_an_entry_for_each_prefix_unit() -> None:
    layout = cpu_compute().cache_layout([attention(None, 48), ShortConvSpec(64, 3), attention(8, 32)])
    assert layout.block_sizes(16) == (32, 48, 96)


def test_layers_whose_blocks_would_be_too_large_store_all_positions() -> None:
    assert grouped([attention(None, 16), attention(8, 16 * 17)]) == (LayerGroup(None, (0, 1)),)


def test_recurrent_layers_are_the_last_group_and_no_part_of_the_others() -> None:
    mixers = [ShortConvSpec(64, 3), attention(8), ShortConvSpec(64, 3), attention(None)]
    assert grouped(mixers) == (
        LayerGroup(None, (3,)),
        LayerGroup(8, (1,)),
        LayerGroup(None, (0, 2), is_state=True),
    )


def test_layers_in_chunks_are_no_layers_with_a_window() -> None:
    specs = [attention(8), dataclasses.replace(attention(None), chunk=8), attention(None)]
    assert grouped(specs) == (LayerGroup(None, (2,)), LayerGroup(8, (0,)), LayerGroup(8, (1,), is_chunked=True))
