"""Linear attention by the gated delta rule (GatedDeltaSpec): Qwen3-Next."""

import torch
import torch.nn.functional as F

from models.batch import StateGroupBatch
from models.kernels.recurrence import convolve, run_gated_delta, takes_conv, takes_delta
from models.layers.norm import make_norm
from models.linear.linear import Linear, empty_parameter
from models.linear.method import LinearMethod
from models.recurrence.layer import Recurrence
from models.recurrence.reference_conv import causal_conv
from models.recurrence.reference_delta import DeltaRows, gated_delta
from models.recurrence.state import LayerState
from models.spec import GatedDeltaSpec

_LEAST_SQUARE = 1e-6  # added to the squared length that a query or key is divided by


class GatedDelta(Recurrence):
    """Parameters: `inp` with the shards qkv, z, b and a; `taps` [K, channels of q, k, v]; `log_rate` and `dt_bias`
    [value heads]; `norm`; `out`."""

    def __init__(self, spec: GatedDeltaSpec, hidden_size: int, *, method: LinearMethod) -> None:
        super().__init__()
        self.spec = spec
        heads = spec.num_value_heads
        self.shards = {"qkv": spec.conv_size, "z": spec.value_size, "b": heads, "a": heads}
        self.inp = Linear(hidden_size, self.shards, has_bias=False, method=method)
        self.taps = empty_parameter((spec.kernel_size, spec.conv_size), torch.float32)
        self.log_rate = empty_parameter((heads,), torch.float32)
        self.dt_bias = empty_parameter((heads,), torch.float32)
        self.norm = make_norm(spec.norm, spec.value_dim)
        self.out = Linear(spec.value_size, hidden_size, has_bias=False, method=method)

    def scan(self, rows: torch.Tensor, group: StateGroupBatch, state: LayerState) -> torch.Tensor:
        qkv, z, b, a = torch.split_with_sizes(rows, list(self.shards.values()), dim=1)
        inputs, matrices = state.parts
        if takes_conv(rows, self.taps):
            convolved = convolve(qkv, self.taps, inputs, group, has_silu=True, out_dtype=torch.float32)
        else:
            convolved = F.silu(causal_conv(qkv, self.taps, None, inputs, group))
        if takes_delta(rows, matrices):
            norm = self.norm.row_input
            assert norm.weight is not None
            weights = (self.log_rate, self.dt_bias, norm.weight)
            return run_gated_delta(
                *(convolved, (z, b, a), weights, norm.eps, matrices, group), tiles_key_heads=self.spec.tiles_key_heads
            )
        y = self.norm(gated_delta(self._delta_rows(convolved, b, a), matrices, group)).flatten(1)
        return (y * F.silu(z.to(torch.float32))).to(rows.dtype)

    def _delta_rows(self, convolved: torch.Tensor, b: torch.Tensor, a: torch.Tensor) -> DeltaRows:
        spec = self.spec
        key_size = spec.num_key_heads * spec.key_dim
        q, k, v = torch.split_with_sizes(convolved, [key_size, key_size, spec.value_size], dim=1)
        return DeltaRows(
            self._of_length_one(q) * spec.key_dim**-0.5,
            self._of_length_one(k),
            v.unflatten(1, (-1, spec.value_dim)),
            -self.log_rate.exp() * F.softplus(a.to(torch.float32) + self.dt_bias),
            torch.sigmoid(b.to(torch.float32)),
        )

    def _of_length_one(self, x: torch.Tensor) -> torch.Tensor:
        """Queries or keys [T, key heads * K] for each value head: [T, H, K]."""
        heads = x.unflatten(1, (self.spec.num_key_heads, -1))
        heads = heads * torch.rsqrt(heads.square().sum(dim=-1, keepdim=True) + _LEAST_SQUARE)
        count = self.spec.num_value_heads // self.spec.num_key_heads
        return heads.repeat(1, count, 1) if self.spec.tiles_key_heads else heads.repeat_interleave(count, dim=1)
