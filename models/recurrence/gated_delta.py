"""Linear attention by the gated delta rule (GatedDeltaSpec): Qwen3-Next."""

import torch
import torch.nn.functional as F

from models.architecture.recurrence import GatedDeltaSpec
from models.batch import StateGroupBatch
from models.kernels.cpu.recurrence import (
    DeltaGates,
    DeltaWeights,
    convolve,
    run_gated_delta,
    supports_conv,
    supports_delta,
)
from models.layers.norm import make_norm
from models.linear.linear import Linear, empty_parameter
from models.linear.method import LinearMethod
from models.recurrence.layer import Recurrence
from models.recurrence.reference_conv import causal_conv
from models.recurrence.reference_delta import DeltaRows, gated_delta
from models.recurrence.state import LayerState

_L2_NORM_EPS = 1e-6  # added to the squared length of a query or key


class GatedDelta(Recurrence):
    """Parameters: `in_proj` with the shards qkv, z, b and a; `conv_weight` [K, channels of q, k, v]; `A_log` and
    `dt_bias` [value heads]; `norm`; `out`."""

    def __init__(self, spec: GatedDeltaSpec, hidden_size: int, *, method: LinearMethod) -> None:
        super().__init__()
        self.spec = spec
        heads = spec.num_value_heads
        self.shards = {"qkv": spec.conv_size, "z": spec.value_size, "b": heads, "a": heads}
        self.in_proj = Linear(hidden_size, self.shards, has_bias=False, method=method)
        self.conv_weight = empty_parameter((spec.kernel_size, spec.conv_size), torch.float32)
        self.A_log = empty_parameter((heads,), torch.float32)
        self.dt_bias = empty_parameter((heads,), torch.float32)
        self.norm = make_norm(spec.norm, spec.value_dim)
        self.out = Linear(spec.value_size, hidden_size, has_bias=False, method=method)

    def scan(self, rows: torch.Tensor, group: StateGroupBatch, state: LayerState) -> torch.Tensor:
        qkv, z, b, a = torch.split_with_sizes(rows, list(self.shards.values()), dim=1)
        inputs, matrices = state.parts
        if supports_conv(rows, self.conv_weight):
            convolved = convolve(qkv, self.conv_weight, inputs, group, has_silu=True, out_dtype=torch.float32)
        else:
            convolved = F.silu(causal_conv(qkv, self.conv_weight, None, inputs, group))
        if supports_delta(rows, matrices):
            norm = self.norm.row_input
            assert norm.weight is not None
            weights = DeltaWeights(self.A_log, self.dt_bias, norm.weight, norm.eps)
            return run_gated_delta(
                convolved,
                DeltaGates(z, b, a),
                weights,
                matrices,
                group,
                tiles_key_heads=self.spec.tiles_key_heads,
            )
        y = self.norm(gated_delta(self._delta_rows(convolved, b, a), matrices, group)).flatten(1)
        return (y * F.silu(z.to(torch.float32))).to(rows.dtype)

    def _delta_rows(self, convolved: torch.Tensor, b: torch.Tensor, a: torch.Tensor) -> DeltaRows:
        spec = self.spec
        key_size = spec.num_key_heads * spec.key_dim
        q, k, v = torch.split_with_sizes(convolved, [key_size, key_size, spec.value_size], dim=1)
        return DeltaRows(
            self._l2_normalized(q) * spec.key_dim**-0.5,
            self._l2_normalized(k),
            v.unflatten(1, (-1, spec.value_dim)),
            -self.A_log.exp() * F.softplus(a.to(torch.float32) + self.dt_bias),
            torch.sigmoid(b.to(torch.float32)),
        )

    def _l2_normalized(self, x: torch.Tensor) -> torch.Tensor:
        """Queries or keys [T, key heads * K], normed and repeated for each value head: [T, H, K]."""
        heads = x.unflatten(1, (self.spec.num_key_heads, -1))
        heads = heads * torch.rsqrt(heads.square().sum(dim=-1, keepdim=True) + _L2_NORM_EPS)
        count = self.spec.num_value_heads // self.spec.num_key_heads
        return heads.repeat(1, count, 1) if self.spec.tiles_key_heads else heads.repeat_interleave(count, dim=1)
