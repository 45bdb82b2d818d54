"""Embedding tables of tokens and of learned positions."""

import torch
import torch.nn.functional as F
from torch import nn

from models.layers.linear import empty_parameter


class Embedding(nn.Module):
    def __init__(self, num_rows: int, size: int, *, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.weight = empty_parameter((num_rows, size), dtype, device)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return F.embedding(ids, self.weight)
