"""Unquantised linear layers: the weight in the activations' dtype."""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from models.quant.base import ParameterSpec

if TYPE_CHECKING:
    from models.layers.linear import Linear


class Unquantized:
    name = "none"

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def parameters(self, in_features: int, out_features: int) -> tuple[ParameterSpec, ...]:
        return (ParameterSpec("weight", (out_features, in_features), self.dtype),)

    def finish(self, layer: "Linear") -> None:
        """Nothing to repack."""

    def apply(self, x: torch.Tensor, layer: "Linear") -> torch.Tensor:
        return F.linear(x, layer.weight, layer.bias)
