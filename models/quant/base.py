"""QuantScheme: how a linear layer's weights are stored and multiplied."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from models.layers.linear import Linear


@dataclass(frozen=True, slots=True)
class ParameterSpec:
    """One tensor of a layer. Dimension 0 runs over the output features, so that fused layers load shard by shard."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


class QuantScheme(Protocol):
    """One storage format of linear layers; stateless, and shared by the layers that use it."""

    name: str

    def parameters(self, in_features: int, out_features: int) -> tuple[ParameterSpec, ...]:
        """The tensors to allocate for a layer, bias excluded."""

    def finish(self, layer: "Linear") -> None:
        """Repack the loaded tensors of `layer` for `apply`; called once, after the last tensor came."""

    def apply(self, x: torch.Tensor, layer: "Linear") -> torch.Tensor:
        """x [..., in] times the layer's weight, plus its bias; returns [..., out] in x's dtype."""
