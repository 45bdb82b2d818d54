"""Short convolution between two gates (ShortConvSpec): LFM2."""

import torch

from models.architecture.recurrence import ShortConvSpec
from models.batch import StateGroupBatch
from models.kernels.cpu.recurrence import convolve, supports_conv
from models.linear.linear import Linear, empty_parameter
from models.linear.method import LinearMethod
from models.recurrence.layer import Recurrence
from models.recurrence.reference_conv import causal_conv
from models.recurrence.state import LayerState


class ShortConv(Recurrence):
    """Parameters: `in_proj`, whose rows are b, c and v; `conv_weight` [K, hidden], `conv_bias`; `out`."""

    conv_bias: torch.Tensor | None

    def __init__(self, spec: ShortConvSpec, hidden_size: int, *, method: LinearMethod) -> None:
        super().__init__()
        self.in_proj = Linear(hidden_size, 3 * hidden_size, has_bias=spec.has_bias, method=method)
        self.out = Linear(hidden_size, hidden_size, has_bias=spec.has_bias, method=method)
        self.conv_weight = empty_parameter((spec.kernel_size, hidden_size), torch.float32)
        bias = empty_parameter((hidden_size,), torch.float32) if spec.has_bias else None
        self.register_parameter("conv_bias", bias)

    def scan(self, rows: torch.Tensor, group: StateGroupBatch, state: LayerState) -> torch.Tensor:
        b, c, v = rows.chunk(3, dim=1)
        if supports_conv(rows, self.conv_weight):
            return convolve(
                *(v, self.conv_weight, state.parts[0], group), bias=self.conv_bias, gates=(b, c), out_dtype=rows.dtype
            )
        return causal_conv(b * v, self.conv_weight, self.conv_bias, state.parts[0], group).to(rows.dtype) * c
