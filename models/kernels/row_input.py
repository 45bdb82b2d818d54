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


@dataclass(frozen=True, slots=True)
class RowInput:
    """A preparation, with the norm's parameters ([K] fp32, contiguous) where it is one."""

    kind: InputKind = InputKind.PLAIN
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    eps: float = 0.0

    @property
    def is_gated(self) -> bool:
        """Whether input rows hold two values for each one multiplied."""
        return self.kind in (InputKind.SILU_GATED, InputKind.GELU_TANH_GATED)


PLAIN = RowInput()
