"""Short convolution with a gate before and after it (ShortConvSpec): LFM2."""

import torch

from models.architecture.recurrence import ShortConvSpec
from models.batch import StateGroupBatch
from models.compute import ComputeConfig
from models.kv.layer import LayerState
from models.layers.recurrence.recurrence import Recurrence
from models.linear.linear import Linear, empty_parameter
from models.linear.method import LinearMethod


class ShortConv(Recurrence):
    """A short causal convolution with a gate before and after it, as ShortConvSpec describes it.

    Parameters: `in_proj`, whose rows are b, c and v; `conv_weight` [K, hidden], `conv_bias`; `out`.
    """

    conv_bias: torch.Tensor | None

    def __init__(self, spec: ShortConvSpec, hidden_size: int, *, compute: ComputeConfig, method: LinearMethod) -> None:
        super().__init__(compute)
        self.in_proj = Linear(hidden_size, 3 * hidden_size, has_bias=spec.has_bias, method=method)
        self.out = Linear(hidden_size, hidden_size, has_bias=spec.has_bias, method=method)
        self.conv_weight = empty_parameter((spec.kernel_size, hidden_size), torch.float32)
        bias = empty_parameter((hidden_size,), torch.float32) if spec.has_bias else None
        self.register_parameter("conv_bias", bias)
        self._convolve = compute.ops.convolve(spec.kernel_size, hidden_size)

    def scan(
        self,
        rows: torch.Tensor,
        group: StateGroupBatch,
        state: LayerState,
        adapter_slots: torch.Tensor | None,  # noqa: ARG002
    ) -> torch.Tensor:
        b, c, v = rows.chunk(3, dim=1)
        inputs = state.parts[0]
        return self._convolve(
            v, self.conv_weight, inputs, group, bias=self.conv_bias, gates=(b, c), out_dtype=rows.dtype
        )
