"""A state space with one decay per head (StateSpaceSpec), as Mamba-2 has it."""

from functools import cached_property

import torch

from models.architecture.feed_forward import Activation, MLPSpec
from models.architecture.recurrence import StateSpaceSpec
from models.batch import StateGroupBatch
from models.compute import ComputeConfig
from models.kernels.operands import StateSpaceWeights
from models.kv.layer import LayerState
from models.layers.activation import activation_of
from models.layers.norm import Norm
from models.layers.recurrence.recurrence import Recurrence
from models.linear.linear import Linear, empty_parameter
from models.linear.method import LinearMethod

_SILU = activation_of(MLPSpec(1, Activation.SILU, is_gated=False))


class StateSpace(Recurrence):
    """A state space with one decay per head, as StateSpaceSpec describes it.

    Parameters: `in_proj` with the shards z, xbc and dt; `conv_weight` [K, channels of x, B, C], `conv_bias`; `A_log`,
    `dt_bias` and `D` [heads]; `norm`; `out`. There is no dt, and none of the last three, with fixed decays.
    """

    conv_weight: torch.Tensor | None
    conv_bias: torch.Tensor | None
    A_log: torch.Tensor | None
    dt_bias: torch.Tensor | None
    D: torch.Tensor | None

    def __init__(self, spec: StateSpaceSpec, hidden_size: int, *, compute: ComputeConfig, method: LinearMethod) -> None:
        super().__init__(compute)
        self.spec, self._device = spec, compute.device
        self.shards = {"z": spec.inner_size, "xbc": spec.conv_size}
        if spec.rates is None:
            self.shards["dt"] = spec.num_heads
        self.in_proj = Linear(hidden_size, self.shards, has_bias=spec.has_in_bias, method=method)
        kernel_size, has_conv_bias = spec.kernel_size, spec.has_conv_bias and spec.kernel_size is not None
        weight = None if kernel_size is None else empty_parameter((kernel_size, spec.conv_size), torch.float32)
        self.register_parameter("conv_weight", weight)
        bias = empty_parameter((spec.conv_size,), torch.float32) if has_conv_bias else None
        self.register_parameter("conv_bias", bias)
        for name in ("A_log", "dt_bias", "D"):
            of_heads = empty_parameter((spec.num_heads,), torch.float32) if spec.rates is None else None
            self.register_parameter(name, of_heads)
        self.norm = None if spec.norm is None else Norm(spec.norm, spec.inner_size)
        self.out = Linear(spec.inner_size, hidden_size, has_bias=spec.has_out_bias, method=method)
        self._convolve = None if kernel_size is None else compute.ops.convolve(kernel_size, spec.conv_size)
        self._prepare_rows = compute.ops.prepare_rows(spec.conv_size)
        self._run_state_space = compute.ops.state_space(spec)

    def scan(
        self,
        rows: torch.Tensor,
        group: StateGroupBatch,
        state: LayerState,
        adapter_slots: torch.Tensor | None,  # noqa: ARG002
    ) -> torch.Tensor:
        z, xbc, *steps = torch.split_with_sizes(rows, list(self.shards.values()), dim=1)
        matrices = state.parts[-1]
        if self._convolve is None:
            activated = self._prepare_rows(xbc, _SILU)
        else:
            activated = self._convolve(
                xbc,
                self._scaled_conv,
                state.parts[0],
                group,
                bias=self.conv_bias,
                has_silu=True,
                out_dtype=torch.float32,
            )
        norm_weight = None if self.norm is None else self.norm.weight
        weights = StateSpaceWeights(self._log_rates, self.dt_bias, self.D, norm_weight)
        return self._run_state_space(activated, z, steps[0] if steps else None, weights, matrices, group)

    @cached_property
    def _log_rates(self) -> torch.Tensor:
        if self.A_log is not None:
            return self.A_log
        assert self.spec.rates is not None
        return torch.tensor(self.spec.rates, dtype=torch.float32, device=self._device).log()

    @cached_property
    def _scaled_conv(self) -> torch.Tensor:
        """The convolution's weight times the factors of x, B and C. Made after loading."""
        assert self.conv_weight is not None
        spec, scales = self.spec, self.spec.scales
        if scales is None:
            return self.conv_weight
        keys = spec.num_groups * spec.state_size
        factors = [scales.x] * spec.inner_size + [scales.b] * keys + [scales.c] * keys
        return self.conv_weight * torch.tensor(factors, device=self.conv_weight.device)
