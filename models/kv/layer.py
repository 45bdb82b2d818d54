"""LayerState: the states of one recurrent layer, of all sequences and checkpoints."""

import math
from dataclasses import dataclass, field

import torch

from models.architecture.recurrence import RecurrenceSpec, ShortConvSpec


@dataclass(slots=True, eq=False)
class LayerState:
    """One tensor for each part of a state, [blocks, ...]; uninitialized, since a sequence starts without reading one.

    pending_rows: [n, width], what `in_proj` made of the last step's speculative rows.
    """

    parts: tuple[torch.Tensor, ...]
    pending_rows: torch.Tensor = field(default_factory=lambda: torch.empty(0))


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
    """The state that a layer stores for a sequence. dtype: of the model's rows."""
    if isinstance(spec, ShortConvSpec):
        return (StatePart((spec.kernel_size - 1, spec.num_channels), dtype),)
    return (
        StatePart((spec.kernel_size - 1, spec.conv_size), dtype),
        # fp32, since thousands of small corrections add up in it
        StatePart((spec.num_value_heads, spec.key_dim, spec.value_dim), torch.float32),
    )


def empty_state(parts: tuple[StatePart, ...], num_blocks: int, device: torch.device) -> LayerState:
    return LayerState(tuple(torch.empty((num_blocks, *part.shape), dtype=part.dtype, device=device) for part in parts))
