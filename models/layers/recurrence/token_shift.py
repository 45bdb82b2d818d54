"""Mixtures of rows with the rows before them (TokenShiftSpec, and a part of GeneralizedDeltaSpec)."""

from collections.abc import Sequence

import torch
from torch import nn

from models.architecture.recurrence import TokenShiftSpec
from models.batch import StateGroupBatch
from models.compute import ComputeConfig
from models.kv.layer import LayerState
from models.linear.linear import empty_parameter


class TokenShift(nn.Module):
    """Several mixtures x + mu (x before - x) of rows x. Parameter: `weight` [mixtures, channels], a shard for each."""

    def __init__(self, names: Sequence[str], channels: int, compute: ComputeConfig) -> None:
        super().__init__()
        self.weight = empty_parameter((len(names), channels), torch.float32)
        self.shards = {name: (row, 1) for row, name in enumerate(names)}
        self._shift_rows = compute.ops.shift_rows(channels)
        self._dtype = compute.dtype

    def forward(self, x: torch.Tensor, group: StateGroupBatch, last: torch.Tensor) -> torch.Tensor:
        """Return the mixtures of x [T, channels] fp32: [mixtures, T, channels]. Reads and writes the last rows of
        sequences, `last` [blocks, 1, channels]."""
        return self._shift_rows(x, self.weight, last, group, out_dtype=self._dtype)


class InputShift(nn.Module):
    """A mixture of a sublayer's input with the row before, with a cache of its own. Parameter: `mix.weight`."""

    def __init__(self, spec: TokenShiftSpec, compute: ComputeConfig) -> None:
        super().__init__()
        self.mix = TokenShift(("x",), spec.num_channels, compute)

    def forward(self, x: torch.Tensor, group: StateGroupBatch, state: LayerState) -> torch.Tensor:
        """Return the mixture for x [T, channels] fp32. Reads and writes `state`."""
        if group.speculative_rows is not None:
            state.pending_rows = x[group.speculative_rows]
        mixed: torch.Tensor = self.mix(x, group, state.parts[0])[0]
        return mixed

    def commit_states(self, accepted_rows: torch.Tensor, group: StateGroupBatch, state: LayerState) -> None:
        """Advance the states by accepted speculative rows: [n] int64, indices into state.pending_rows."""
        self.mix(state.pending_rows[accepted_rows], group, state.parts[0])
