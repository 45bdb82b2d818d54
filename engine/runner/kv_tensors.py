"""The KV cache's memory: tensors in the attention back end's own layout, shared by the layers of different groups."""

import math

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
    tensors = [
        torch.empty(
            model.attention_backend.kv_shape(model.attention_specs[layer], num_blocks, block_size),
            dtype=model.dtype,
            device=model.device,
        )
        for layer in _largest(model.layer_groups).layers
    ]
    place = {layer: index for group in model.layer_groups for index, layer in enumerate(group.layers)}
    return [tensors[place[layer]] for layer in range(len(model.attention_specs))]


def bytes_per_block(model: LoadedModel, block_size: int) -> int:
    """Bytes that one block takes: its positions in the layers of one group."""
    blocks = 16  # a back end may round a single small block up to its tile
    specs = [model.attention_specs[layer] for layer in _largest(model.layer_groups).layers]
    numbers = sum(math.prod(model.attention_backend.kv_shape(spec, blocks, block_size)) for spec in specs)
    return numbers * model.dtype.itemsize // blocks


def _largest(groups: tuple[LayerGroup, ...]) -> LayerGroup:
    return max(groups, key=lambda group: len(group.layers))
