"""Linear attention by the gated delta rule (GatedDeltaSpec): Qwen3-Next."""

import torch

from models.architecture.recurrence import GatedDeltaSpec
from models.batch import StateGroupBatch
from models.compute import ComputeConfig
from models.kernels.operands import DeltaGates, DeltaWeights
from models.kv.layer import LayerState
from models.layers.norm import Norm
from models.layers.recurrence.recurrence import Recurrence
from models.linear.linear import Linear, empty_parameter
from models.linear.method import LinearMethod


class GatedDelta(Recurrence):
    """Linear attention by the gated delta rule, as GatedDeltaSpec describes it.

    Parameters: `in_proj` with the shards qkv, z, b and a; `conv_weight` [K, channels of q, k, v]; `A_log` and `dt_bias`
    [value heads]; `norm`; `out`.
    """

    def __init__(self, spec: GatedDeltaSpec, hidden_size: int, *, compute: ComputeConfig, method: LinearMethod) -> None:
        super().__init__(compute)
        self.spec = spec
        heads = spec.num_value_heads
        self.shards = {"qkv": spec.conv_size, "z": spec.value_size, "b": heads, "a": heads}
        self.in_proj = Linear(hidden_size, self.shards, has_bias=False, method=method)
        self.conv_weight = empty_parameter((spec.kernel_size, spec.conv_size), torch.float32)
        self.A_log = empty_parameter((heads,), torch.float32)
        self.dt_bias = empty_parameter((heads,), torch.float32)
        self.norm = Norm(spec.norm, spec.value_dim)
        self.out = Linear(spec.value_size, hidden_size, has_bias=False, method=method)
        self._convolve = compute.ops.convolve(spec.kernel_size, spec.conv_size)
        self._run_gated_delta = compute.ops.gated_delta(spec.key_dim, spec.value_dim)

    def scan(
        self,
        rows: torch.Tensor,
        group: StateGroupBatch,
        state: LayerState,
        adapter_slots: torch.Tensor | None,  # noqa: ARG002
    ) -> torch.Tensor:
        qkv, z, b, a = torch.split_with_sizes(rows, list(self.shards.values()), dim=1)
        inputs, matrices = state.parts
        convolved = self._convolve(qkv, self.conv_weight, inputs, group, has_silu=True, out_dtype=torch.float32)
        norm = self.norm.row_input
        assert norm.weight is not None
        weights = DeltaWeights(self.A_log, self.dt_bias, norm.weight, norm.eps)
        gates, tiles = DeltaGates(z, b, a), self.spec.tiles_key_heads
        return self._run_gated_delta(convolved, gates, weights, matrices, group, tiles_key_heads=tiles)
