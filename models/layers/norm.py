"""RMSNorm and LayerNorm, prologues of linear layers: fp32 parameters and reductions whatever the rows' dtype."""

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import nn

from models.architecture.norm import NormKind, NormSpec
from models.kernels.row_input import InputKind, RowInput
from models.linear.linear import empty_parameter


class RMSNorm(nn.Module):
    weight: torch.Tensor | None

    def __init__(self, size: int, spec: NormSpec) -> None:
        super().__init__()
        self.shape = (size,)
        self.eps = spec.eps
        self.register_parameter("weight", empty_parameter(self.shape, torch.float32) if spec.has_weight else None)

    @cached_property
    def row_input(self) -> RowInput:
        return RowInput(InputKind.RMS_NORM, _or_ones(self.weight, self.shape), eps=self.eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x.to(torch.float32), self.shape, self.weight, self.eps).to(x.dtype)


class LayerNorm(nn.Module):
    weight: torch.Tensor | None
    bias: torch.Tensor | None

    def __init__(self, size: int, spec: NormSpec) -> None:
        super().__init__()
        self.shape = (size,)
        self.eps = spec.eps
        self.register_parameter("weight", empty_parameter(self.shape, torch.float32) if spec.has_weight else None)
        self.register_parameter("bias", empty_parameter(self.shape, torch.float32) if spec.has_bias else None)

    @cached_property
    def row_input(self) -> RowInput:
        return RowInput(InputKind.LAYER_NORM, _or_ones(self.weight, self.shape), self.bias, self.eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x.to(torch.float32), self.shape, self.weight, self.bias, self.eps).to(x.dtype)


Norm = RMSNorm | LayerNorm
_NORMS: dict[NormKind, type[RMSNorm] | type[LayerNorm]] = {NormKind.RMS: RMSNorm, NormKind.LAYER: LayerNorm}


def make_norm(spec: NormSpec, size: int) -> Norm:
    return _NORMS[spec.kind](size, spec)


def _or_ones(weight: torch.Tensor | None, shape: tuple[int, ...]) -> torch.Tensor:
    """Return the weight, or ones, since native kernels always multiply by a weight."""
    return torch.ones(shape, dtype=torch.float32) if weight is None else weight
