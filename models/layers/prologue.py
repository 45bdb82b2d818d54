"""Prologues: what a linear layer does to its input rows before it multiplies them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from models.kernels.row_input import PLAIN, InputKind, RowInput
from models.spec import Activation


class Prologue(Protocol):
    """A function of rows: [T, n] to [T, in], where n is in, or 2 * in for a gated activation.

    Called, it computes in torch; `row_input` tells native kernels, which fuse it, to do the same.
    """

    @property
    def row_input(self) -> RowInput: ...

    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...


@dataclass(frozen=True, slots=True)
class Elementwise:
    """A prologue without parameters."""

    row_input: RowInput
    function: Callable[[torch.Tensor], torch.Tensor]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def _gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x, approximate="tanh")


def _gated(
    activation: Callable[[torch.Tensor], torch.Tensor],
) -> Callable[[torch.Tensor], torch.Tensor]:
    def gated(x: torch.Tensor) -> torch.Tensor:
        gate, up = x.chunk(2, dim=-1)
        return activation(gate) * up

    return gated


AS_IS = Elementwise(PLAIN, lambda x: x)

# (activation, is gated): act(x), or act(gate) * up of rows [gate | up].
ACTIVATIONS = {
    (Activation.SILU, False): Elementwise(RowInput(InputKind.SILU), F.silu),
    (Activation.SILU, True): Elementwise(RowInput(InputKind.SILU_GATED), _gated(F.silu)),
    (Activation.GELU_TANH, False): Elementwise(RowInput(InputKind.GELU_TANH), _gelu_tanh),
    (Activation.GELU_TANH, True): Elementwise(RowInput(InputKind.GELU_TANH_GATED), _gated(_gelu_tanh)),
}
