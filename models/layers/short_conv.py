"""Short convolution between two gates (ShortConvSpec): LFM2."""

import torch

from models.batch import StateGroupBatch
from models.layers.linear import Linear, empty_parameter
from models.layers.recurrence import Recurrence
from models.quant.base import QuantScheme
from models.recurrence.conv import causal_conv
from models.recurrence.state import LayerState
from models.spec import ShortConvSpec


class ShortConv(Recurrence):
    """Parameters: `inp`, whose rows are b, c and v; `conv_weight` [hidden, K], `conv_bias`; `out`."""

    conv_bias: torch.Tensor | None

    def __init__(self, spec: ShortConvSpec, hidden_size: int, *, scheme: QuantScheme) -> None:
        super().__init__()
        self.inp = Linear(hidden_size, 3 * hidden_size, has_bias=spec.has_bias, scheme=scheme)
        self.out = Linear(hidden_size, hidden_size, has_bias=spec.has_bias, scheme=scheme)
        self.conv_weight = empty_parameter((hidden_size, spec.kernel_size), torch.float32)
        bias = empty_parameter((hidden_size,), torch.float32) if spec.has_bias else None
        self.register_parameter("conv_bias", bias)

    def scan(self, rows: torch.Tensor, group: StateGroupBatch, state: LayerState) -> torch.Tensor:
        b, c, v = rows.chunk(3, dim=1)
        return causal_conv(b * v, self.conv_weight, self.conv_bias, state.parts[0], group).to(rows.dtype) * c
