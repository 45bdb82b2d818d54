"""The KV cache's memory: one tensor a layer, in the attention back end's own layout."""

import math

import torch

from models.loaded import LoadedModel


def allocate_kv(model: LoadedModel, num_blocks: int, block_size: int) -> list[torch.Tensor]:
    """One tensor a layer, uninitialised: attention reads no slot that its sequence has not written.

    So on a CPU the pages are only taken from the system as blocks come into use; zeroing would touch them all at start.
    """
    return [
        torch.empty(
            model.attention_backend.kv_shape(spec, num_blocks, block_size), dtype=model.dtype, device=model.device
        )
        for spec in model.attention_specs
    ]


def bytes_per_block(model: LoadedModel, block_size: int) -> int:
    """Bytes that one block takes over all layers."""
    numbers = sum(math.prod(model.attention_backend.kv_shape(s, 1, block_size)) for s in model.attention_specs)
    return numbers * model.dtype.itemsize
