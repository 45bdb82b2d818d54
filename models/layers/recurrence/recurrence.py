"""Recurrence: base class of recurrent layers, with their projections and the commit of accepted speculative rows."""

from abc import abstractmethod

import torch
from torch import nn

from models.attention.rotary import RotaryEmbedding
from models.batch import ForwardBatch, StateGroupBatch
from models.compute import ComputeConfig
from models.kernels.row_input import Prologue
from models.kv.layer import LayerState
from models.linear.linear import Linear


class Recurrence(nn.Module):
    """A recurrent layer: the projection `in_proj`, the recurrence itself (`scan`), the projection `out`.

    A layer with other projections than `in_proj` has a `forward` of its own, and keeps what its `scan` takes.
    """

    in_proj: Linear
    out: Linear

    def __init__(self, compute: ComputeConfig) -> None:
        super().__init__()
        self._dtype = compute.dtype

    def forward(
        self,
        x: torch.Tensor,
        norm: Prologue,
        rotary: RotaryEmbedding | None,  # noqa: ARG002
        batch: ForwardBatch,
        group: StateGroupBatch,
        state: LayerState,
        residual: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return recurrence(norm(x)) (+ residual, overwritten; may be x): [T, hidden]. Reads and writes `state`."""
        rows = self.in_proj(x, norm, out_dtype=self._dtype, adapter_slots=batch.adapter_slots)
        if group.speculative_rows is not None:
            state.pending_rows = rows[group.speculative_rows]
            slots = batch.adapter_slots
            state.pending_slots = None if slots is None else slots[group.speculative_rows]
        y = self.scan(rows, group, state, batch.adapter_slots)
        hidden: torch.Tensor = self.out(y, residual=residual, adapter_slots=batch.adapter_slots)
        return hidden

    def commit_states(self, accepted_rows: torch.Tensor, group: StateGroupBatch, state: LayerState) -> None:
        """Advance the states by accepted speculative rows: [n] int64, indices into state.pending_rows."""
        slots = state.pending_slots
        rows = state.pending_rows[accepted_rows]
        self.scan(rows, group, state, None if slots is None else slots[accepted_rows])

    @abstractmethod
    def scan(
        self, rows: torch.Tensor, group: StateGroupBatch, state: LayerState, adapter_slots: torch.Tensor | None
    ) -> torch.Tensor:
        """Run the recurrence over outputs of `in_proj`, and return the inputs of `out`. Reads and writes `state`.

        adapter_slots: [T] int32, or None; for recurrences with linear layers of their own.
        """
