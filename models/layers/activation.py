"""Activations of MLPs as prologues of the linear layer that follows them."""

from collections.abc import Callable
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import nn

from models.architecture.feed_forward import Activation, GateScales, MLPSpec, SwigluClamp
from models.kernels.row_input import Elementwise, InputKind, Prologue, RowInput
from models.linear.linear import empty_parameter


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


def _scaled_swiglu(scales: GateScales) -> Callable[[torch.Tensor], torch.Tensor]:
    def gated(x: torch.Tensor) -> torch.Tensor:
        gate, up = x.chunk(2, dim=-1)
        return scales.out * F.silu(scales.gate * gate) * up

    return gated


# activation -> (in torch, the kernels' kind, the kernels' kind for act(gate) * up of rows [gate | up])
_ACTIVATIONS: dict[Activation, tuple[Callable[[torch.Tensor], torch.Tensor], InputKind, InputKind]] = {
    Activation.SILU: (F.silu, InputKind.SILU, InputKind.SILU_GATED),
    Activation.GELU: (F.gelu, InputKind.GELU, InputKind.GELU_GATED),
    Activation.GELU_TANH: (_gelu_tanh, InputKind.GELU_TANH, InputKind.GELU_TANH_GATED),
    Activation.GELU_QUICK: (_gelu_quick, InputKind.GELU_QUICK, InputKind.GELU_QUICK_GATED),
    Activation.RELU: (F.relu, InputKind.RELU, InputKind.RELU_GATED),
    Activation.RELU_SQUARED: (_relu_squared, InputKind.RELU_SQUARED, InputKind.RELU_SQUARED_GATED),
}


TANH = Elementwise(RowInput(InputKind.TANH), torch.tanh)
SIGMOID = Elementwise(RowInput(InputKind.SIGMOID), torch.sigmoid)


class Xielu(nn.Module):
    """xIELU (Huang and Schlag 2024), whose numbers are parameters: alpha_p and alpha_n before softplus, beta and eps.

    beta x + alpha_p x^2 above 0, else beta x + alpha_n (exp(min(x, eps)) - 1 - x), with beta added to alpha_n.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = empty_parameter((4,), torch.float32)
        self.shards = {name: (row, 1) for row, name in enumerate(("alpha_p", "alpha_n", "beta", "eps"))}

    @cached_property
    def numbers(self) -> torch.Tensor:
        """The numbers that the kernels take, [4] fp32."""
        alpha_p, alpha_n, beta, eps = self.weight
        return torch.stack((F.softplus(alpha_p), beta + F.softplus(alpha_n), beta, eps))

    @property
    def row_input(self) -> RowInput:
        return RowInput(InputKind.XIELU, self.numbers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return xielu(x.to(torch.float32), self.numbers).to(x.dtype)


def xielu(x: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Return xIELU of x. numbers: alpha_p, alpha_n, beta, eps, as kernels take them."""
    alpha_p, alpha_n, beta, eps = numbers
    below = alpha_n * (torch.expm1(torch.minimum(x, eps)) - x)
    return torch.where(x > 0, alpha_p * x * x, below) + beta * x


def activation_of(spec: MLPSpec) -> Prologue:
    """Return the activation between an MLP's two matrices, as the prologue of the second."""
    if spec.activation is Activation.XIELU:
        assert not spec.is_gated
        return Xielu()
    if (clamp := spec.clamp) is not None:
        bounds = RowInput.with_numbers(InputKind.SWIGLU_CLAMPED, clamp.alpha, clamp.limit)
        return Elementwise(bounds, _clamped_swiglu(clamp))
    if (scales := spec.scales) is not None:
        assert spec.is_gated
        assert spec.activation is Activation.SILU
        factors = RowInput.with_numbers(InputKind.SILU_GATED_SCALED, scales.gate, scales.out)
        return Elementwise(factors, _scaled_swiglu(scales))
    function, kind, gated_kind = _ACTIVATIONS[spec.activation]
    if spec.is_gated:
        return Elementwise(RowInput(gated_kind), _gated(function))
    return Elementwise(RowInput(kind), function)
