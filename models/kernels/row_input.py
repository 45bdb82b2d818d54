"""RowInput: what a native linear layer does to its input rows before it multiplies them."""

import enum
from dataclasses import dataclass

import torch


class InputKind(enum.IntEnum):
    """In the order of InputKind in row_input.h."""

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
    SWIGLU_CLAMPED = 15  # of a row [gate | up], too; weight is {alpha, limit}


_GATED = frozenset(kind for kind in InputKind if "GATED" in kind.name or kind is InputKind.SWIGLU_CLAMPED)


@dataclass(frozen=True, slots=True)
class RowInput:
    """What happens to rows, with the parameters ([K] fp32, contiguous) if it is a norm."""

    kind: InputKind = InputKind.PLAIN
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    eps: float = 0.0

    @property
    def is_gated(self) -> bool:
        """Whether input rows have two values for each one that is multiplied."""
        return self.kind in _GATED

    def arguments(self) -> tuple[int | float | None, ...]:
        """(kind, weight, bias, eps) as kernels take them."""
        weight = None if self.weight is None else self.weight.data_ptr()
        return self.kind, weight, None if self.bias is None else self.bias.data_ptr(), self.eps


PLAIN = RowInput()
