"""LayerState: the states of one recurrent layer, of all sequences and checkpoints."""

import math
from dataclasses import dataclass, field

import torch

from models.spec import RecurrenceSpec, ShortConvSpec


@dataclass(slots=True, eq=False)
class LayerState:
    """One tensor for each part of a state, [blocks, ...]; uninitialized, since a text begins without reading one.

    kept: what the layer made of the rows whose fate is open, before the recurrence: [n, width], of the last step.
    """

    parts: tuple[torch.Tensor, ...]
    kept: torch.Tensor = field(default_factory=lambda: torch.empty(0))


# What a layer reads and writes beside its rows: its KV tensor in the attention back end's layout, or its states.
LayerCache = torch.Tensor | LayerState


@dataclass(frozen=True, slots=True)
class StatePart:
    shape: tuple[int, ...]  # of one state
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def state_parts(spec: RecurrenceSpec, dtype: torch.dtype) -> tuple[StatePart, ...]:
    """What a layer keeps of a text. dtype: of the model's rows."""
    if isinstance(spec, ShortConvSpec):
        return (StatePart((spec.kernel_size - 1, spec.num_channels), dtype),)
    return (
        StatePart((spec.kernel_size - 1, spec.conv_size), dtype),
        # fp32, for thousands of small corrections are added up in it.
        StatePart((spec.num_value_heads, spec.key_dim, spec.value_dim), torch.float32),
    )


def empty_state(parts: tuple[StatePart, ...], num_blocks: int, device: torch.device) -> LayerState:
    return LayerState(tuple(torch.empty((num_blocks, *part.shape), dtype=part.dtype, device=device) for part in parts))
