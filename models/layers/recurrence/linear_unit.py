"""A gated linear recurrent unit (LinearUnitSpec), as RecurrentGemma has it."""

import torch

from models.architecture.recurrence import LinearUnitSpec
from models.batch import StateGroupBatch
from models.compute import ComputeConfig
from models.kernels.operands import UnitInputs, UnitWeights
from models.kv.layer import LayerState
from models.layers.recurrence.recurrence import Recurrence
from models.linear.linear import Linear, empty_parameter
from models.linear.method import LinearMethod
from models.linear.per_head import PerHeadLinear


class LinearUnit(Recurrence):
    """A gated linear recurrent unit, as LinearUnitSpec describes it.

    Parameters: `in_proj` with the shards x and z; `conv_weight` [K, channels], `conv_bias`; `input_gate` and
    `decay_gate`, a matrix per head; `input_bias`, `decay_bias` and `rate` [channels]; `out`.
    """

    def __init__(self, spec: LinearUnitSpec, hidden_size: int, *, compute: ComputeConfig, method: LinearMethod) -> None:
        super().__init__(compute)
        channels, width = spec.num_channels, spec.num_channels // spec.num_heads
        self.in_proj = Linear(hidden_size, {"x": channels, "z": channels}, has_bias=True, method=method)
        self.conv_weight = empty_parameter((spec.kernel_size, channels), torch.float32)
        self.conv_bias, self.input_bias, self.decay_bias, self.rate = (
            empty_parameter((channels,), torch.float32) for _ in range(4)
        )
        self.input_gate, self.decay_gate = (PerHeadLinear(spec.num_heads, width, width, compute) for _ in range(2))
        self.out = Linear(channels, hidden_size, has_bias=True, method=method)
        self._heads = (spec.num_heads, width)
        self._convolve = compute.ops.convolve(spec.kernel_size, channels)
        self._run_unit = compute.ops.linear_unit(channels)

    def scan(
        self,
        rows: torch.Tensor,
        group: StateGroupBatch,
        state: LayerState,
        adapter_slots: torch.Tensor | None,  # noqa: ARG002
    ) -> torch.Tensor:
        x, z = rows.chunk(2, dim=1)
        inputs, channels = state.parts
        x = self._convolve(x, self.conv_weight, inputs, group, bias=self.conv_bias, out_dtype=rows.dtype)
        heads = x.unflatten(1, self._heads)
        input_gate, decay_gate = (
            gate(heads, heads.new_empty(heads.shape)).flatten(1) for gate in (self.input_gate, self.decay_gate)
        )
        weights = UnitWeights(self.input_bias, self.decay_bias, self.rate)
        return self._run_unit(UnitInputs(x, input_gate, decay_gate, z), weights, channels, group)
