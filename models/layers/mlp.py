"""Feed-forward layers: gated (gate and up in one GEMM) and plain."""

import torch
from torch import nn

from models.layers.linear import Linear
from models.layers.prologue import ACTIVATIONS, Prologue
from models.quant.base import QuantScheme
from models.spec import MLPSpec


class GatedMLP(nn.Module):
    def __init__(self, spec: MLPSpec, hidden_size: int, *, scheme: QuantScheme) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[spec.activation, True]
        inner = spec.intermediate_size
        shards = {"gate": inner, "up": inner}
        self.gate_up = Linear(hidden_size, shards, has_bias=spec.has_bias, scheme=scheme)
        self.down = Linear(inner, hidden_size, has_bias=spec.has_bias, scheme=scheme)

    def forward(self, x: torch.Tensor, norm: Prologue) -> torch.Tensor:
        """x + MLP(norm(x)), x used up: [T, hidden]."""
        hidden: torch.Tensor = self.down(self.gate_up(x, norm), self.activation, residual=x)
        return hidden


class MLP(nn.Module):
    def __init__(self, spec: MLPSpec, hidden_size: int, *, scheme: QuantScheme) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[spec.activation, False]
        inner = spec.intermediate_size
        self.up = Linear(hidden_size, inner, has_bias=spec.has_bias, scheme=scheme)
        self.down = Linear(inner, hidden_size, has_bias=spec.has_bias, scheme=scheme)

    def forward(self, x: torch.Tensor, norm: Prologue) -> torch.Tensor:
        """x + MLP(norm(x)), x used up: [T, hidden]."""
        hidden: torch.Tensor = self.down(self.up(x, norm), self.activation, residual=x)
        return hidden


def make_mlp(spec: MLPSpec, hidden_size: int, *, scheme: QuantScheme) -> nn.Module:
    kind = GatedMLP if spec.is_gated else MLP
    return kind(spec, hidden_size, scheme=scheme)
