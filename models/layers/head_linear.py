"""HeadLinear: a matrix of its own for each head."""

import torch
from torch import nn

from models.layers.linear import empty_parameter


class HeadLinear(nn.Module):
    """y[t, h] = W[h] x[t, h]. Held in `dtype`, also where the checkpoint is quantised."""

    weight: torch.Tensor  # [H, out, in]

    def __init__(self, num_heads: int, in_features: int, out_features: int, *, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = empty_parameter((num_heads, out_features, in_features), dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [T, H, in] to [T, H, out]."""
        return torch.bmm(x.transpose(0, 1), self.weight.transpose(1, 2)).transpose(0, 1)
