"""CacheLayout: describes the KV cache and recurrent states of a decoder, and allocates them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from models.architecture.kv_layout import KVLayout, LayerLayout, StateLayout
from models.kv.groups import LayerGroup
from models.kv.layer import LayerCache, LayerKV, allocate_layer_kv, allocate_states


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """The layout of each layer's cache, and the groups of layers that share block tables.

    Layers are counted by mixers, as LayerGroup says. A model without attention has no KV blocks.

    Allocated memory is uninitialized, since no layer reads a slot or state that its sequence has not written. So on a
    CPU the system provides memory only as blocks come into use.
    """

    layers: tuple[LayerLayout, ...]
    groups: tuple[LayerGroup, ...]

    @property
    def has_states(self) -> bool:
        """Whether some layers are recurrent, and so have states."""
        return any(isinstance(layout, StateLayout) for layout in self.layers)

    @property
    def state_bytes(self) -> int:
        """Bytes of one sequence's state in all recurrent layers; 0 without such layers."""
        return sum(layout.state_bytes for layout in self.layers if isinstance(layout, StateLayout))

    def block_sizes(self, block_size: int) -> tuple[int, ...]:
        """Return the positions in a block of each group: `block_size`, or multiples of it if positions differ in size.

        An entry of a table of states stands for as many positions as whole blocks of all groups have in common.
        """
        ratios = [group.block_ratio for group in self.groups if not group.is_state]
        layouts = {layout for layout in self.layers if isinstance(layout, KVLayout)}
        if len(ratios) == 1 or len(layouts) <= 1:
            return (block_size,) * len(self.groups)
        # Blocks of different layouts must not have parts of one tile, in which slots are interleaved.
        unit = math.lcm(block_size, *(layout.tile for layout in layouts))
        most = unit * math.lcm(*ratios)
        return tuple(most if group.is_state else unit * group.block_ratio for group in self.groups)

    def block_bytes(self, block_size: int) -> int:
        """Return the bytes of a block, which holds `block_size` positions or more of all layers of one group; 0 without
        attention."""
        group = self._largest_group()
        sizes = dict(zip(self.groups, self.block_sizes(block_size), strict=True))
        return 0 if group is None else self._position_bytes(group.layers) * sizes[group]

    def unshared_block_bytes(self, block_size: int) -> int:
        """Return the bytes of a block from `allocate_unshared`, which holds `block_size` positions of all layers."""
        return self._position_bytes(range(len(self.layers))) * block_size

    def allocate(
        self, num_blocks: int, block_size: int, device: torch.device, *, num_states: int = 0
    ) -> list[LayerCache]:
        """Allocate the cache of each layer. The n-th layers of all groups share memory, but never a block."""
        kv = self._allocate_shared(num_blocks, block_size, device)
        return [
            kv[layer] if layer in kv else self.allocate_layer(layer, 0, block_size, device, num_states=num_states)
            for layer in range(len(self.layers))
        ]

    def _allocate_shared(self, num_blocks: int, block_size: int, device: torch.device) -> dict[int, LayerKV]:
        """Allocate the caches of all layers with attention, by layer."""
        largest = self._largest_group()
        if largest is None:
            return {}
        sizes = dict(zip(self.groups, self.block_sizes(block_size), strict=True))
        layouts = {layer: layout for layer, layout in enumerate(self.layers) if isinstance(layout, KVLayout)}
        shared = [allocate_layer_kv(layouts[layer], num_blocks, sizes[largest], device) for layer in largest.layers]
        return {
            layer: cache.viewed(layouts[layer], num_blocks, sizes[group])
            for group in self.groups
            if not group.is_state
            for layer, cache in zip(group.layers, shared, strict=False)
        }

    def allocate_unshared(
        self, num_blocks: int, block_size: int, device: torch.device, *, num_states: int = 0
    ) -> list[LayerCache]:
        """Allocate separate memory for each layer's cache, so that one block table can serve all groups."""
        return [
            self.allocate_layer(layer, num_blocks, block_size, device, num_states=num_states)
            for layer in range(len(self.layers))
        ]

    def allocate_layer(
        self, layer: int, num_blocks: int, block_size: int, device: torch.device, *, num_states: int = 0
    ) -> LayerCache:
        """Allocate the cache of one layer."""
        layout = self.layers[layer]
        if isinstance(layout, StateLayout):
            return allocate_states(layout, num_states, device)
        return allocate_layer_kv(layout, num_blocks, block_size, device)

    def _position_bytes(self, layers: Iterable[int]) -> int:
        layouts = (self.layers[layer] for layer in layers)
        return sum(layout.position_bytes for layout in layouts if isinstance(layout, KVLayout))

    def _largest_group(self) -> LayerGroup | None:
        """Return the group with attention in most layers; None without attention."""
        attending = (group for group in self.groups if not group.is_state)
        return max(attending, key=lambda group: len(group.layers), default=None)
