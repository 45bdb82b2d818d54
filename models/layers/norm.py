"""RMSNorm and LayerNorm; both reduce in fp32 whatever the input's dtype."""

import torch
import torch.nn.functional as F
from torch import nn

from models.layers.linear import empty_parameter
from models.spec import NormKind, NormSpec


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float, *, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.shape = (size,)
        self.eps = eps
        self.weight = empty_parameter(self.shape, dtype, device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, self.shape, self.weight, self.eps)


class LayerNorm(nn.Module):
    def __init__(self, size: int, eps: float, *, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.shape = (size,)
        self.eps = eps
        self.weight = empty_parameter(self.shape, dtype, device)
        self.bias = empty_parameter(self.shape, dtype, device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, self.shape, self.weight, self.bias, self.eps)


_NORMS: dict[NormKind, type[RMSNorm] | type[LayerNorm]] = {NormKind.RMS: RMSNorm, NormKind.LAYER: LayerNorm}


def make_norm(spec: NormSpec, size: int, *, dtype: torch.dtype, device: torch.device) -> nn.Module:
    return _NORMS[spec.kind](size, spec.eps, dtype=dtype, device=device)
