"""Prologues: what a linear layer does to its input rows before it multiplies them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from models.kernels.row_input import PLAIN, InputKind, RowInput
from models.spec import Activation, MLPSpec, SwigluClamp


class Prologue(Protocol):
    """A function of rows: [T, n] to [T, in], where n is in, or 2 * in for a gated activation.

    Called, it computes in torch; `row_input` tells native kernels, which fuse it, to do the same. It is None where
    there is no kernel, and torch computes it first.
    """

    @property
    def row_input(self) -> RowInput | None: ...

    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...


@dataclass(frozen=True, slots=True)
class Elementwise:
    """A prologue without parameters."""

    row_input: RowInput | None
    function: Callable[[torch.Tensor], torch.Tensor]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def _gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x, approximate="tanh")


def _gelu_quick(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(1.702 * x)


def _relu_squared(x: torch.Tensor) -> torch.Tensor:
    return F.relu(x).square()


def _gated(activation: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    def gated(x: torch.Tensor) -> torch.Tensor:
        gate, up = x.chunk(2, dim=-1)
        return activation(gate) * up

    return gated


def _clamped_swiglu(clamp: SwigluClamp) -> Callable[[torch.Tensor], torch.Tensor]:
    def gated(x: torch.Tensor) -> torch.Tensor:
        gate, up = x.chunk(2, dim=-1)
        gate, up = gate.clamp(max=clamp.limit), up.clamp(-clamp.limit, clamp.limit)
        return gate * torch.sigmoid(clamp.alpha * gate) * (up + 1)

    return gated


AS_IS = Elementwise(PLAIN, lambda x: x)

# activation -> (in torch, the kernels' kind, the kernels' kind for act(gate) * up of rows [gate | up])
_ACTIVATIONS: dict[Activation, tuple[Callable[[torch.Tensor], torch.Tensor], InputKind | None, InputKind | None]] = {
    Activation.SILU: (F.silu, InputKind.SILU, InputKind.SILU_GATED),
    Activation.GELU_TANH: (_gelu_tanh, InputKind.GELU_TANH, InputKind.GELU_TANH_GATED),
    # Of older and rarer models; torch computes these between two kernels.
    Activation.GELU: (F.gelu, None, None),
    Activation.GELU_QUICK: (_gelu_quick, None, None),
    Activation.RELU: (F.relu, None, None),
    Activation.RELU_SQUARED: (_relu_squared, None, None),
}


def activation_of(spec: MLPSpec) -> Prologue:
    """What stands between an MLP's two matrices."""
    if spec.clamp is not None:
        return Elementwise(None, _clamped_swiglu(spec.clamp))
    function, kind, gated_kind = _ACTIVATIONS[spec.activation]
    native = gated_kind if spec.is_gated else kind
    return Elementwise(None if native is None else RowInput(native), _gated(function) if spec.is_gated else function)
