"""Laurel: a learned residual of low rank beside attention."""

import torch
from torch import nn

from models.architecture.norm import NormSpec
from models.compute import ComputeConfig
from models.kernels.row_input import IDENTITY, Prologue
from models.layers.norm import Norm
from models.linear.linear import Linear
from models.linear.method import LinearMethod


class Laurel(nn.Module):
    """y + norm(right(left(y))) for y = attn_norm(x) (Menghani et al. 2024)."""

    def __init__(
        self, rank: int, norm: NormSpec, hidden_size: int, *, compute: ComputeConfig, method: LinearMethod
    ) -> None:
        super().__init__()
        self.left = Linear(hidden_size, rank, has_bias=False, method=method)
        self.right = Linear(rank, hidden_size, has_bias=False, method=method)
        self.norm = Norm(norm, hidden_size)
        self._prepare_rows, self._join_rows = compute.ops.prepare_rows(hidden_size), compute.ops.join_rows(hidden_size)

    def forward(self, x: torch.Tensor, attn_norm: Prologue, adapter_slots: torch.Tensor | None) -> torch.Tensor:
        """Return the residual for x [T, hidden]: [T, hidden], fp32."""
        rows = self._prepare_rows(x, attn_norm)
        low = self.left(rows, IDENTITY, adapter_slots=adapter_slots)
        return self._join_rows(rows, self.right(low, IDENTITY, adapter_slots=adapter_slots), self.norm)
