"""Layouts of the cache: the tensors in which a layer keeps keys and values, or the state of a recurrence."""

import math
from dataclasses import dataclass

import torch

from models.architecture.recurrence import RecurrenceSpec, ShortConvSpec


@dataclass(frozen=True, slots=True)
class CachePart:
    """One tensor of a layer's cache: keys, values, both, or scales of either."""

    name: str
    shape: tuple[int, ...]  # of a tile of slots, or of a state
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Bytes of this part for one tile of slots, or for one state."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class KVLayout:
    """Layout of a layer's keys and values, defined by the attention back end.

    A slot (block * block_size + offset) holds one position; each part stores `tile` slots together. compute_dtype:
    dtype of the queries, keys and values that the back end takes, whatever dtype the parts have.
    """

    parts: tuple[CachePart, ...]
    tile: int
    compute_dtype: torch.dtype

    @property
    def position_bytes(self) -> int:
        return sum(part.num_bytes for part in self.parts) // self.tile

    def num_tiles(self, num_blocks: int, block_size: int) -> int:
        """Return the number of tiles that hold all slots of the blocks."""
        return -(-num_blocks * block_size // self.tile)


@dataclass(frozen=True, slots=True)
class StateLayout:
    """Layout of the state that a recurrent layer keeps for a sequence."""

    parts: tuple[CachePart, ...]

    @property
    def state_bytes(self) -> int:
        return sum(part.num_bytes for part in self.parts)


LayerLayout = KVLayout | StateLayout


def state_layout(spec: RecurrenceSpec, dtype: torch.dtype) -> StateLayout:
    """Return the layout of a recurrence's states. dtype: dtype of the model's activations."""
    if isinstance(spec, ShortConvSpec):
        return StateLayout((CachePart("inputs", (spec.kernel_size - 1, spec.num_channels), dtype),))
    return StateLayout(
        (
            CachePart("inputs", (spec.kernel_size - 1, spec.conv_size), dtype),
            # fp32, since thousands of small corrections add up in it
            CachePart("matrices", (spec.num_value_heads, spec.key_dim, spec.value_dim), torch.float32),
        )
    )
