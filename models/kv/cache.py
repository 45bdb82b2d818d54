"""Memory of the KV cache: tensors in the attention back end's own layout, shared by layers of different groups, and the
states of recurrent layers."""

import math
from collections.abc import Iterable

import torch

from models.architecture.attention import AttentionSpec
from models.kv.groups import LayerGroup
from models.kv.layer import LayerCache, LayerState, StatePart, empty_state, state_parts
from models.loaded_model import LoadedModel


def allocate_kv(model: LoadedModel, num_blocks: int, block_size: int, *, num_states: int = 0) -> list[LayerCache]:
    """The cache of each layer, uninitialized: no layer reads a slot or state that its sequence has not written.

    So on a CPU the pages are only taken from the system as blocks come into use; zeroing would touch them all at start.
    """
    tensors = [_allocate(model, layer, num_blocks, block_size) for layer in _largest_group(model.layer_groups).layers]
    caches: dict[int, LayerCache] = {}
    for group in model.layer_groups:
        for place, layer in enumerate(group.layers):
            caches[layer] = _allocate_states(model, layer, num_states) if group.is_state else tensors[place]
    return [caches[layer] for layer in range(len(model.mixers))]


def allocate_unshared_kv(model: LoadedModel, num_blocks: int, block_size: int) -> list[LayerCache]:
    """As allocate_kv, with a tensor for each layer: one block table, which covers everything, serves all groups."""
    return [_allocate(model, layer, num_blocks, block_size) for layer in range(len(model.mixers))]


def bytes_per_block(model: LoadedModel, block_size: int) -> int:
    """Bytes that one block takes: its positions in the layers of one group."""
    return _bytes_of(model, _largest_group(model.layer_groups).layers, block_size)


def unshared_bytes_per_block(model: LoadedModel, block_size: int) -> int:
    """The same for allocate_unshared_kv: its positions in all layers."""
    return _bytes_of(model, range(len(model.mixers)), block_size)


def _allocate(model: LoadedModel, layer: int, num_blocks: int, block_size: int) -> torch.Tensor:
    shape = model.attention_backend.kv_shape(_attention(model, layer), num_blocks, block_size)
    return torch.empty(shape, dtype=model.dtype, device=model.device)


def _allocate_states(model: LoadedModel, layer: int, num_states: int) -> LayerState:
    return empty_state(_state_parts(model, layer), num_states, model.device)


def _bytes_of(model: LoadedModel, layers: Iterable[int], block_size: int) -> int:
    blocks = 16  # a back end may round a single small block up to its tile
    specs = [_attention(model, layer) for layer in layers]
    numbers = sum(math.prod(model.attention_backend.kv_shape(spec, blocks, block_size)) for spec in specs)
    return numbers * model.dtype.itemsize // blocks


def bytes_per_state(model: LoadedModel) -> int:
    """Bytes of one state of all recurrent layers; 0 without such layers."""
    layers = [layer for group in model.layer_groups if group.is_state for layer in group.layers]
    return sum(part.num_bytes for layer in layers for part in _state_parts(model, layer))


def _state_parts(model: LoadedModel, layer: int) -> tuple[StatePart, ...]:
    spec = model.mixers[layer]
    assert not isinstance(spec, AttentionSpec)
    return state_parts(spec, model.dtype)


def _attention(model: LoadedModel, layer: int) -> AttentionSpec:
    spec = model.mixers[layer]
    assert isinstance(spec, AttentionSpec)
    return spec


def _largest_group(groups: tuple[LayerGroup, ...]) -> LayerGroup:
    return max((group for group in groups if not group.is_state), key=lambda group: len(group.layers))
