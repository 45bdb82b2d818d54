"""A state space with a decay per channel and state (SelectiveScanSpec), as Mamba has it."""

from functools import cached_property

import torch

from models.architecture.recurrence import SelectiveScanSpec
from models.batch import StateGroupBatch
from models.compute import ComputeConfig
from models.kernels.operands import ScanInputs, ScanWeights
from models.kernels.row_input import IDENTITY
from models.kv.layer import LayerState
from models.layers.norm import Norm
from models.layers.recurrence.recurrence import Recurrence
from models.linear.linear import Linear, empty_parameter
from models.linear.method import LinearMethod


class SelectiveScan(Recurrence):
    """A state space with a decay per channel and state, as SelectiveScanSpec describes it.

    Parameters: `in_proj` with the shards x and z; `conv_weight` [K, channels], `conv_bias`; `x_proj` with the shards
    dt, b and c; `dt_proj`; `A_log` [channels, N]; `D` [channels]; `dt_norm`, `b_norm`, `c_norm`; `out`.
    """

    conv_bias: torch.Tensor | None

    def __init__(
        self, spec: SelectiveScanSpec, hidden_size: int, *, compute: ComputeConfig, method: LinearMethod
    ) -> None:
        super().__init__(compute)
        self.spec = spec
        channels, rank = spec.num_channels, spec.step_rank
        self.in_proj = Linear(hidden_size, {"x": channels, "z": channels}, has_bias=spec.has_bias, method=method)
        self.conv_weight = empty_parameter((spec.kernel_size, channels), torch.float32)
        bias = empty_parameter((channels,), torch.float32) if spec.has_conv_bias else None
        self.register_parameter("conv_bias", bias)
        self.shards = {"dt": rank, "b": spec.state_size, "c": spec.state_size}
        self.x_proj = Linear(channels, self.shards, has_bias=False, method=method)
        self.dt_proj = Linear(rank, channels, has_bias=True, method=method)
        self.A_log = empty_parameter((channels, spec.state_size), torch.float32)
        self.D = empty_parameter((channels,), torch.float32)
        self.dt_norm, self.b_norm, self.c_norm = (
            None if spec.norm is None else Norm(spec.norm, size) for size in self.shards.values()
        )
        self.out = Linear(channels, hidden_size, has_bias=spec.has_bias, method=method)
        self._convolve = compute.ops.convolve(spec.kernel_size, channels)
        self._run_scan = compute.ops.selective_scan(channels, spec.state_size)

    def scan(
        self, rows: torch.Tensor, group: StateGroupBatch, state: LayerState, adapter_slots: torch.Tensor | None
    ) -> torch.Tensor:
        x, z = rows.chunk(2, dim=1)
        inputs, matrices = state.parts
        x = self._convolve(
            x, self.conv_weight, inputs, group, bias=self.conv_bias, has_silu=True, out_dtype=torch.float32
        )
        dt, b, c = torch.split_with_sizes(
            self.x_proj(x, out_dtype=torch.float32, adapter_slots=adapter_slots), list(self.shards.values()), dim=1
        )
        steps = self.dt_proj(dt, self.dt_norm or IDENTITY, out_dtype=torch.float32, adapter_slots=adapter_slots)
        return self._run_scan(ScanInputs(x, steps, b, c, z), self._weights, matrices, group)

    @cached_property
    def _weights(self) -> ScanWeights:
        """The scan's parameters, with the rates as the scan reads them. Made after loading."""
        rates = -self.A_log.exp().t().contiguous()
        if self.b_norm is None or self.c_norm is None:
            return ScanWeights(rates, self.D, None, None)
        b_norm, c_norm = (norm.row_input for norm in (self.b_norm, self.c_norm))
        assert b_norm.weight is not None
        assert c_norm.weight is not None
        # The ones of a norm without a weight are on no device in particular.
        b, c = b_norm.weight.to(rates.device), c_norm.weight.to(rates.device)
        return ScanWeights(rates, self.D, b, c, b_norm.eps)
