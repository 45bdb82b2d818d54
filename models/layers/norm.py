"""Norm: RMSNorm or LayerNorm of rows, usable as the prologue of a linear layer."""

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import nn

from models.architecture.norm import NormKind, NormSpec
from models.kernels.row_input import InputKind, RowInput
from models.linear.linear import empty_parameter

_INPUT_KINDS = {NormKind.RMS: InputKind.RMS_NORM, NormKind.LAYER: InputKind.LAYER_NORM}


class Norm(nn.Module):
    """RMSNorm or LayerNorm with fp32 parameters and reductions, whatever the dtype of the rows."""

    weight: torch.Tensor | None
    bias: torch.Tensor | None

    def __init__(self, spec: NormSpec, size: int) -> None:
        super().__init__()
        assert spec.kind is NormKind.LAYER or not spec.has_bias
        self.kind, self.eps = spec.kind, spec.eps
        self.shape = (size,)
        self.register_parameter("weight", empty_parameter(self.shape, torch.float32) if spec.has_weight else None)
        self.register_parameter("bias", empty_parameter(self.shape, torch.float32) if spec.has_bias else None)

    @cached_property
    def row_input(self) -> RowInput:
        # Native kernels always multiply by a weight.
        weight = torch.ones(self.shape, dtype=torch.float32) if self.weight is None else self.weight
        return RowInput(_INPUT_KINDS[self.kind], weight, self.bias, self.eps, has_weight=self.weight is not None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.to(torch.float32)
        if self.kind is NormKind.RMS:
            return F.rms_norm(rows, self.shape, self.weight, self.eps).to(x.dtype)
        return F.layer_norm(rows, self.shape, self.weight, self.bias, self.eps).to(x.dtype)
