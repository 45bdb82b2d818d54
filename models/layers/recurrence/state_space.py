"""A state space with one decay per head (StateSpaceSpec), as Mamba-2 has it."""

from functools import cached_property

import torch

from models.architecture.recurrence import StateSpaceSpec
from models.batch import StateGroupBatch
from models.compute import ComputeConfig
from models.kernels.operands import StateSpaceWeights
from models.kv.layer import LayerState
from models.layers.norm import Norm
from models.layers.recurrence.recurrence import Recurrence
from models.linear.linear import Linear, empty_parameter
from models.linear.method import LinearMethod


class StateSpace(Recurrence):
    """A state space with one decay per head, as StateSpaceSpec describes it.

    Parameters: `in_proj` with the shards z, xbc and dt; `conv_weight` [K, channels of x, B, C], `conv_bias`; `A_log`,
    `dt_bias` and `D` [heads]; `norm`; `out`.
    """

    conv_bias: torch.Tensor | None

    def __init__(self, spec: StateSpaceSpec, hidden_size: int, *, compute: ComputeConfig, method: LinearMethod) -> None:
        super().__init__(compute)
        self.spec = spec
        self.shards = {"z": spec.inner_size, "xbc": spec.conv_size, "dt": spec.num_heads}
        self.in_proj = Linear(hidden_size, self.shards, has_bias=spec.has_in_bias, method=method)
        self.conv_weight = empty_parameter((spec.kernel_size, spec.conv_size), torch.float32)
        bias = empty_parameter((spec.conv_size,), torch.float32) if spec.has_conv_bias else None
        self.register_parameter("conv_bias", bias)
        self.A_log = empty_parameter((spec.num_heads,), torch.float32)
        self.dt_bias = empty_parameter((spec.num_heads,), torch.float32)
        self.D = empty_parameter((spec.num_heads,), torch.float32)
        self.norm = None if spec.norm is None else Norm(spec.norm, spec.inner_size)
        self.out = Linear(spec.inner_size, hidden_size, has_bias=spec.has_out_bias, method=method)
        self._convolve = compute.ops.convolve(spec.kernel_size, spec.conv_size)
        self._run_state_space = compute.ops.state_space(spec)

    def scan(
        self,
        rows: torch.Tensor,
        group: StateGroupBatch,
        state: LayerState,
        adapter_slots: torch.Tensor | None,  # noqa: ARG002
    ) -> torch.Tensor:
        z, xbc, dt = torch.split_with_sizes(rows, list(self.shards.values()), dim=1)
        inputs, matrices = state.parts
        convolved = self._convolve(
            xbc, self._scaled_conv, inputs, group, bias=self.conv_bias, has_silu=True, out_dtype=torch.float32
        )
        norm_weight = None if self.norm is None else self.norm.weight
        weights = StateSpaceWeights(self.A_log, self.dt_bias, self.D, norm_weight)
        return self._run_state_space(convolved, z, dt, weights, matrices, group)

    @cached_property
    def _scaled_conv(self) -> torch.Tensor:
        """The convolution's weight times the factors of x, B and C. Made after loading."""
        spec, scales = self.spec, self.spec.scales
        if scales is None:
            return self.conv_weight
        keys = spec.num_groups * spec.state_size
        factors = [scales.x] * spec.inner_size + [scales.b] * keys + [scales.c] * keys
        return self.conv_weight * torch.tensor(factors, device=self.conv_weight.device)
