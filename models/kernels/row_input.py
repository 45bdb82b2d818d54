"""Prologues: functions that a linear layer applies to its input rows, with descriptions for kernels that fuse them."""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch


class InputKind(enum.IntEnum):
    """A kind of prologue, with the number that it has in the C++ enum InputKind (row_input.h)."""

    PLAIN = 0
    RMS_NORM = 1
    LAYER_NORM = 2
    SILU_GATED = 3  # silu(gate) * up of a row [gate | up]
    GELU_TANH_GATED = 4
    GELU_TANH = 5
    SILU = 6
    GELU_GATED = 7
    GELU = 8
    GELU_QUICK_GATED = 9
    GELU_QUICK = 10
    RELU_GATED = 11
    RELU = 12
    RELU_SQUARED_GATED = 13
    RELU_SQUARED = 14
    SWIGLU_CLAMPED = 15  # SwigluClamp of a row [gate | up]; weight is {alpha, limit}
    SILU_GATED_SCALED = 16  # out * silu(scale * gate) * up; weight is {scale, out}
    XIELU = 17  # weight is {alpha_p, alpha_n, beta, eps}
    TANH = 18
    SIGMOID = 19


_GATED = frozenset(kind for kind in InputKind if "GATED" in kind.name or kind is InputKind.SWIGLU_CLAMPED)


@dataclass(frozen=True, slots=True)
class RowInput:
    """A prologue as an argument of native kernels. weight, bias: the parameters of a norm ([K] fp32, contiguous).

    has_weight: False for a weight that is all ones, on the CPU, for kernels that cannot do without. numbers: the two
    numbers of an activation that has them in its weight, for kernels that take them by value.
    """

    kind: InputKind = InputKind.PLAIN
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    eps: float = 0.0
    has_weight: bool = True
    numbers: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def with_numbers(cls, kind: InputKind, first: float, second: float) -> "RowInput":
        weight = torch.tensor([first, second], dtype=torch.float32, device="cpu")
        return cls(kind, weight, numbers=(first, second))

    @property
    def is_gated(self) -> bool:
        """Whether input rows are twice as wide as the rows that are multiplied: [gate | up]."""
        return self.kind in _GATED

    def arguments(self) -> tuple[int | float | None, ...]:
        """Return the kernels' arguments: kind, addresses of weight and bias, eps."""
        weight = None if self.weight is None else self.weight.data_ptr()
        return self.kind, weight, None if self.bias is None else self.bias.data_ptr(), self.eps


PLAIN = RowInput()


class Prologue(Protocol):
    """A function of a linear layer's input rows: [T, n] to [T, in]; n is in, or 2 * in for a gated activation.

    A call computes with torch; kernels that fuse the prologue compute what `row_input` describes.
    """

    @property
    def row_input(self) -> RowInput: ...

    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...


@dataclass(frozen=True, slots=True)
class Elementwise:
    """An elementwise prologue without parameters, such as an activation."""

    row_input: RowInput
    function: Callable[[torch.Tensor], torch.Tensor]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


IDENTITY = Elementwise(PLAIN, lambda x: x)
