"""States of recurrent models of transformers, in the place of its Cache: what the model's code reads and writes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers import Cache

from models.architecture.recurrence import OpaqueStateSpec, StateTensor
from models.kv.layer import LayerState
from models.progress import StepProgress, ignore_progress

CONVOLUTION, RECURRENT = "convolution", "recurrent"

StateKey = tuple[int, str, int]  # layer, kind, index of the state in its layer


class CurrentStates(Cache):
    """The states of the sequences of one pass. Keys and values are in headrace's cache, so `update` returns its input.

    values: [sequences, *shape of a state] of each state, which the model's code may change in place. start: position of
    the pass's first row, 0 for new sequences, which have no values.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.values: dict[StateKey, torch.Tensor] = {}
        self.start = 0
        self.num_updates = 0  # of keys and values
        self.on_progress: StepProgress = ignore_progress

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,  # noqa: ARG002
        *_: Any,
        **__: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.num_updates += 1
        return key_states, value_states

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        self.on_progress()
        return self.values.get((layer_idx, CONVOLUTION, state_idx))

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        return self.values.get((layer_idx, RECURRENT, state_idx))

    def update_conv_state(
        self,
        conv_states: torch.Tensor,
        layer_idx: int,
        state_idx: int = 0,
        conv_kernel_size: int | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """Append rows [sequences, channels, rows]; return them behind those that the state had."""
        key = (layer_idx, CONVOLUTION, state_idx)
        past = self.values.get(key)
        if past is not None:
            rows = torch.cat((past, conv_states), dim=-1)
        else:
            missing = (conv_kernel_size or 0) - conv_states.shape[-1]
            rows = F.pad(conv_states, (missing, 0)) if missing > 0 else conv_states
        size = (conv_kernel_size or conv_states.shape[-1]) if past is None else past.shape[-1]
        self.values[key] = rows[..., -size:]
        return rows

    def update_recurrent_state(
        self, recurrent_states: torch.Tensor, layer_idx: int, state_idx: int = 0, **_: Any
    ) -> torch.Tensor:
        self.values[layer_idx, RECURRENT, state_idx] = recurrent_states
        return recurrent_states

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:  # noqa: ARG002
        return self.start > 0

    def is_recording_past(self, layer_idx: int) -> bool:  # noqa: ARG002
        return False

    def get_recurrent_states_to_keep(self, layer_idx: int | None = None) -> int:  # noqa: ARG002
        return 0  # of rows before the last one

    def increase_count(self, layer_idx: int, state_idx: int) -> None:
        """Do nothing: `start` is known."""

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002
        return self.start

    def get_query_offset(self, layer_idx: int = 0) -> int:  # noqa: ARG002
        return self.start

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:  # noqa: ARG002
        return self.start + query_length, 0


@dataclass(frozen=True, slots=True)
class StateGroup:
    """The states of one layer: the keys of the tensors, in the order of the spec's."""

    keys: tuple[StateKey, ...]
    spec: OpaqueStateSpec


def state_groups(values: Mapping[StateKey, torch.Tensor], dtype: torch.dtype) -> tuple[StateGroup, ...]:
    """Return the states of each layer that has some. values: after a pass, in a model of `dtype`."""
    groups = []
    for layer in sorted({layer for layer, _, _ in values}):
        keys = tuple(sorted(key for key in values if key[0] == layer))
        tensors = tuple(
            StateTensor(f"{kind} {index}", tuple(values[key].shape[1:]), _keeps_fp32(values[key], dtype))
            for key in keys
            for _, kind, index in [key]
        )
        groups.append(StateGroup(keys, OpaqueStateSpec(tensors)))
    return tuple(groups)


def _keeps_fp32(value: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether the code keeps a state in fp32, whatever dtype the model has."""
    return value.dtype == torch.float32 and dtype != torch.float32


def load_states(
    groups: Sequence[StateGroup], caches: Sequence[LayerState], sources: torch.Tensor
) -> dict[StateKey, torch.Tensor]:
    """Return copies of the states in the blocks `sources` [sequences]."""
    return {
        key: part[sources]
        for group, cache in zip(groups, caches, strict=True)
        for key, part in zip(group.keys, cache.parts, strict=True)
    }


def store_states(
    groups: Sequence[StateGroup],
    caches: Sequence[LayerState],
    values: Mapping[StateKey, torch.Tensor],
    sequences: torch.Tensor,
    targets: torch.Tensor,
) -> None:
    """Store the states of some of the pass's sequences in the blocks `targets`."""
    for group, cache in zip(groups, caches, strict=True):
        for key, part in zip(group.keys, cache.parts, strict=True):
            part[targets] = values[key][sequences].to(part.dtype)
