"""LayerKV and LayerState: the cache of one layer's attention or recurrence."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from models.architecture.kv_layout import KVLayout, StateLayout
from models.kv.key_center import RotatedCenter


@dataclass(slots=True, eq=False)
class LayerKV:
    """Keys and values of one layer: a tensor for each part of its layout, by name, [tiles, *shape of a tile].

    key_center: [K, D] fp32, contiguous; a constant that keys are stored without if they are codes, which adds the same
    to all scores of a query. The layer sets it before it writes, always to the same. Only for attention without sinks
    and soft cap. rotated_center: in its place, a center of keys before rotation, whose scores attention adds; the layer
    sets it, too.
    """

    layout: KVLayout
    parts: Mapping[str, torch.Tensor]
    key_center: torch.Tensor | None = None
    rotated_center: RotatedCenter | None = None

    def viewed(self, layout: KVLayout, num_blocks: int, block_size: int) -> "LayerKV":
        """Return the same memory for another layer, whose blocks must have as many bytes in each part."""
        if layout == self.layout:
            return LayerKV(layout, self.parts)
        num_tiles = layout.num_tiles(num_blocks, block_size)
        parts = {part.name: self.parts[part.name].view(num_tiles, *part.shape) for part in layout.parts}
        return LayerKV(layout, parts)


@dataclass(slots=True, eq=False)
class LayerState:
    """States of one recurrent layer: a tensor for each part of the layout, in its order, [blocks, *shape of a state].

    pending_rows: [n, width], outputs of `in_proj` for the last step's speculative rows, which await verification.
    pending_slots: [n] int32, the rows' adapter slots, or None.
    """

    parts: tuple[torch.Tensor, ...]
    pending_rows: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    pending_slots: torch.Tensor | None = None


LayerCache = LayerKV | LayerState


def allocate_layer_kv(layout: KVLayout, num_blocks: int, block_size: int, device: torch.device) -> LayerKV:
    """Allocate the cache of a layer, uninitialized."""
    num_tiles = layout.num_tiles(num_blocks, block_size)
    return LayerKV(
        layout,
        {part.name: torch.empty((num_tiles, *part.shape), dtype=part.dtype, device=device) for part in layout.parts},
    )


def allocate_states(layout: StateLayout, num_states: int, device: torch.device) -> LayerState:
    """Allocate a recurrent layer's states, uninitialized, since a new sequence reads no state."""
    return LayerState(
        tuple(torch.empty((num_states, *part.shape), dtype=part.dtype, device=device) for part in layout.parts)
    )
