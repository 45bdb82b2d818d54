"""Feed-forward layers: gated (gate and up in one GEMM) and plain."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from models.layers.linear import Linear
from models.quant.base import QuantScheme
from models.spec import Activation, MLPSpec


def _gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x, approximate="tanh")


_ACTIVATIONS: dict[Activation, Callable[[torch.Tensor], torch.Tensor]] = {
    Activation.SILU: F.silu,
    Activation.GELU_TANH: _gelu_tanh,
}


class GatedMLP(nn.Module):
    def __init__(
        self, spec: MLPSpec, hidden_size: int, *, scheme: QuantScheme, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self.activation = _ACTIVATIONS[spec.activation]
        inner = spec.intermediate_size
        shards = {"gate": inner, "up": inner}
        self.gate_up = Linear(hidden_size, shards, has_bias=spec.has_bias, scheme=scheme, dtype=dtype, device=device)
        self.down = Linear(inner, hidden_size, has_bias=spec.has_bias, scheme=scheme, dtype=dtype, device=device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(self.activation(gate) * up)


class MLP(nn.Module):
    def __init__(
        self, spec: MLPSpec, hidden_size: int, *, scheme: QuantScheme, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self.activation = _ACTIVATIONS[spec.activation]
        inner = spec.intermediate_size
        self.up = Linear(hidden_size, inner, has_bias=spec.has_bias, scheme=scheme, dtype=dtype, device=device)
        self.down = Linear(inner, hidden_size, has_bias=spec.has_bias, scheme=scheme, dtype=dtype, device=device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.activation(self.up(x)))


def make_mlp(
    spec: MLPSpec, hidden_size: int, *, scheme: QuantScheme, dtype: torch.dtype, device: torch.device
) -> nn.Module:
    kind = GatedMLP if spec.is_gated else MLP
    return kind(spec, hidden_size, scheme=scheme, dtype=dtype, device=device)
