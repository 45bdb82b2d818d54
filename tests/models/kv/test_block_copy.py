"""Copies of blocks: a block comes back bit for bit, and no other block changes."""

from typing import Any

import pytest
import torch

from models.architecture.attention import AttentionSpec, IndexerSpec
from models.architecture.kv_layout import KVLayout, state_layout
from models.architecture.norm import NormKind, NormSpec
from models.architecture.recurrence import ShortConvSpec
from models.attention.base import AttentionBackend
from models.attention.cpu import CpuAttention
from models.attention.reference import ReferenceAttention
from models.errors import ModelError
from models.kv.block_copy import BlockCopy
from models.kv.cache import CacheLayout
from models.kv.groups import group_layers
from models.kv.layer import LayerCache, LayerKV
from tests.helpers.mixed_kv import MixedKV

BLOCK_SIZE, NUM_BLOCKS = 16, 6
FULL, WINDOW = AttentionSpec(4, 2, 32, 0.2), AttentionSpec(4, 2, 32, 0.2, sliding_window=8)
NARROW = AttentionSpec(4, 1, 32, 0.2)  # half of the bytes a position
LATENT = AttentionSpec(4, 1, 64, 0.2, values_from=48)
MODELS = {
    "full": [FULL, FULL],
    "windows": [WINDOW, FULL, WINDOW, WINDOW, FULL],
    "sizes": [WINDOW, NARROW, NARROW, WINDOW],
    "latent": [LATENT, LATENT],
}


def layout_of(specs: list[AttentionSpec], backend: AttentionBackend, kv_dtype: torch.dtype) -> CacheLayout:
    dtype = kv_dtype if kv_dtype in (torch.float32, torch.bfloat16) else torch.bfloat16
    layouts = tuple(backend.layout(spec, dtype, kv_dtype) for spec in specs)
    return CacheLayout(layouts, group_layers(specs, layouts))


def filled(layout: CacheLayout, seed: int) -> list[LayerCache]:
    """A cache of random bytes."""
    caches = layout.allocate(NUM_BLOCKS, BLOCK_SIZE, torch.device("cpu"))
    generator = torch.Generator().manual_seed(seed)
    for part in parts_of(caches):
        part.copy_(torch.randint(0, 256, part.shape, generator=generator, dtype=torch.uint8))
    return caches


def parts_of(caches: list[LayerCache]) -> list[torch.Tensor]:
    return [part.view(torch.uint8) for cache in caches if isinstance(cache, LayerKV) for part in cache.parts.values()]


@pytest.mark.parametrize("kv_dtype", [torch.float32, torch.bfloat16, torch.int8, torch.int4], ids=str)
@pytest.mark.parametrize("backend", [CpuAttention(), ReferenceAttention(), MixedKV()], ids=lambda each: each.name)
@pytest.mark.parametrize("model", MODELS)
def test_a_block_comes_back_bit_for_bit(model: str, backend: AttentionBackend, kv_dtype: torch.dtype) -> None:
    """Into another block of another cache, whose other blocks stay as they were."""
    layout = layout_of(MODELS[model], backend, kv_dtype)
    ours = filled(layout, 1)
    source = BlockCopy(layout, ours, BLOCK_SIZE)
    for group in range(len(layout.groups)):
        theirs = filled(layout, 2)
        target = BlockCopy(layout, theirs, BLOCK_SIZE)
        before = [target.read(group, block) for block in range(NUM_BLOCKS)]
        content = source.read(group, 1)
        assert len(content) == source.block_bytes[group]
        target.write(group, 4, content)
        assert target.read(group, 4) == content != before[4]
        for block in (0, 1, 2, 3, 5):
            assert target.read(group, block) == before[block]
        for layer in layout.groups[group].layers:
            check_slots(ours[layer], theirs[layer], layout.block_sizes(BLOCK_SIZE)[group])


def check_slots(ours: LayerCache, theirs: LayerCache, size: int) -> None:
    """Block 4 of one layer's cache is block 1 of another's, as its layout counts them."""
    assert isinstance(ours, LayerKV)
    assert isinstance(theirs, LayerKV)
    tiles = size // ours.layout.tile
    for name, part in ours.parts.items():
        copied = theirs.parts[name][4 * tiles : 5 * tiles]
        assert torch.equal(copied.view(torch.uint8), part[tiles : 2 * tiles].view(torch.uint8))


def test_blocks_have_an_indexers_keys() -> None:
    spec = AttentionSpec(4, 1, 64, 0.2, values_from=48, indexer=IndexerSpec(**indexer_fields()))
    layout = layout_of([spec], ReferenceAttention(), torch.bfloat16)
    copy = BlockCopy(layout, filled(layout, 1), BLOCK_SIZE)
    assert copy.block_bytes == (layout.block_bytes(BLOCK_SIZE),)


def indexer_fields() -> dict[str, Any]:
    return {"num_heads": 2, "head_dim": 16, "topk": 4, "norm": NormSpec(NormKind.RMS, 1e-5)}


def test_states_have_no_blocks() -> None:
    recurrent = ShortConvSpec(num_channels=8, kernel_size=3)
    attending = ReferenceAttention().layout(FULL, torch.bfloat16, torch.bfloat16)
    layouts = (attending, state_layout(recurrent, torch.bfloat16))
    layout = CacheLayout(layouts, group_layers([FULL, recurrent], layouts))
    caches = layout.allocate(NUM_BLOCKS, BLOCK_SIZE, torch.device("cpu"), num_states=2)
    assert isinstance(attending, KVLayout)
    assert BlockCopy(layout, caches, BLOCK_SIZE).block_bytes == (BLOCK_SIZE * attending.position_bytes, 0)


def test_blocks_smaller_than_a_tile_are_refused() -> None:
    layout = layout_of([FULL], CpuAttention(), torch.bfloat16)
    caches = layout.allocate(NUM_BLOCKS, 24, torch.device("cpu"))
    with pytest.raises(ModelError, match=r"24 tokens .* 16 tokens together; choose a multiple of 16 \(--block-size\)"):
        BlockCopy(layout, caches, 24)


@pytest.mark.parametrize("model", MODELS)
def test_copies_within_a_cache_read_all_before_they_write(model: str) -> None:
    layout = layout_of(MODELS[model], ReferenceAttention(), torch.bfloat16)
    copy = BlockCopy(layout, filled(layout, 1), BLOCK_SIZE)
    last = len(layout.groups) - 1
    before = [copy.read(last, block) for block in range(NUM_BLOCKS)]
    copy.copy([(last, 0, 1), (last, 1, 2), (last, 4, 0)])
    after = [copy.read(last, block) for block in range(NUM_BLOCKS)]
    assert after == [before[4], before[0], before[1], *before[3:]]
