"""RMSNorm and LayerNorm: fp32 parameters and reductions whatever the rows' dtype. A linear layer's prologues."""

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import nn

from models.kernels.row_input import InputKind, RowInput
from models.layers.linear import empty_parameter
from models.spec import NormKind, NormSpec


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.shape = (size,)
        self.eps = eps
        self.weight = empty_parameter(self.shape, torch.float32)

    @cached_property
    def row_input(self) -> RowInput:
        return RowInput(InputKind.RMS_NORM, self.weight, eps=self.eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x.to(torch.float32), self.shape, self.weight, self.eps).to(x.dtype)


class LayerNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.shape = (size,)
        self.eps = eps
        self.weight = empty_parameter(self.shape, torch.float32)
        self.bias = empty_parameter(self.shape, torch.float32)

    @cached_property
    def row_input(self) -> RowInput:
        return RowInput(InputKind.LAYER_NORM, self.weight, self.bias, self.eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x.to(torch.float32), self.shape, self.weight, self.bias, self.eps).to(x.dtype)


Norm = RMSNorm | LayerNorm
_NORMS: dict[NormKind, type[RMSNorm] | type[LayerNorm]] = {NormKind.RMS: RMSNorm, NormKind.LAYER: LayerNorm}


def make_norm(spec: NormSpec, size: int) -> Norm:
    return _NORMS[spec.kind](size, spec.eps)
