"""The KV cache's memory: tensors in the attention back end's own layout, shared by the layers of different groups."""

import math
from collections.abc import Iterable

import torch

from engine.kv.groups import KVGroup
from models.kv_groups import LayerGroup
from models.loaded import LoadedModel


def kv_groups(model: LoadedModel, block_size: int) -> tuple[KVGroup, ...]:
    """What the scheduler has to know of the model's layer groups."""
    return tuple(KVGroup(block_size, group.window, is_chunked=group.is_chunked) for group in model.layer_groups)


def allocate_kv(model: LoadedModel, num_blocks: int, block_size: int) -> list[torch.Tensor]:
    """The tensor of each layer, uninitialised: attention reads no slot that its sequence has not written.

    So on a CPU the pages are only taken from the system as blocks come into use; zeroing would touch them all at start.
    """
    tensors = [_allocate(model, layer, num_blocks, block_size) for layer in _largest(model.layer_groups).layers]
    place = {layer: index for group in model.layer_groups for index, layer in enumerate(group.layers)}
    return [tensors[place[layer]] for layer in range(len(model.attention_specs))]


def allocate_unshared_kv(model: LoadedModel, num_blocks: int, block_size: int) -> list[torch.Tensor]:
    """As allocate_kv, with a tensor for each layer: one block table, which covers everything, serves all groups."""
    return [_allocate(model, layer, num_blocks, block_size) for layer in range(len(model.attention_specs))]


def bytes_per_block(model: LoadedModel, block_size: int) -> int:
    """Bytes that one block takes: its positions in the layers of one group."""
    return _bytes_of(model, _largest(model.layer_groups).layers, block_size)


def unshared_bytes_per_block(model: LoadedModel, block_size: int) -> int:
    """The same for allocate_unshared_kv: its positions in all layers."""
    return _bytes_of(model, range(len(model.attention_specs)), block_size)


def _allocate(model: LoadedModel, layer: int, num_blocks: int, block_size: int) -> torch.Tensor:
    shape = model.attention_backend.kv_shape(model.attention_specs[layer], num_blocks, block_size)
    return torch.empty(shape, dtype=model.dtype, device=model.device)


def _bytes_of(model: LoadedModel, layers: Iterable[int], block_size: int) -> int:
    blocks = 16  # a back end may round a single small block up to its tile
    specs = [model.attention_specs[layer] for layer in layers]
    numbers = sum(math.prod(model.attention_backend.kv_shape(spec, blocks, block_size)) for spec in specs)
    return numbers * model.dtype.itemsize // blocks


def _largest(groups: tuple[LayerGroup, ...]) -> LayerGroup:
    return max(groups, key=lambda group: len(group.layers))
