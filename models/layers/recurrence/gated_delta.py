"""Linear attention by the gated delta rule (GatedDeltaSpec): Qwen3-Next, OLMo Hybrid, Kimi Linear."""

from collections.abc import Mapping

import torch
from torch import nn

from models.architecture.recurrence import GatedDeltaSpec
from models.batch import StateGroupBatch
from models.compute import ComputeConfig
from models.kernels.operands import DeltaGates, DeltaWeights
from models.kv.layer import LayerState
from models.layers.norm import Norm
from models.layers.recurrence.recurrence import Recurrence
from models.linear.linear import Linear, empty_parameter
from models.linear.method import LinearMethod


class ConvTaps(nn.Module):
    """Weights of a depthwise convolution, [K, channels]. Separate tensors may fill ranges of channels, the shards."""

    def __init__(self, kernel_size: int, channels: int, shard_sizes: Mapping[str, int]) -> None:
        super().__init__()
        self.weight = empty_parameter((kernel_size, channels), torch.float32)
        self.set_shards(shard_sizes)

    def set_shards(self, shard_sizes: Mapping[str, int]) -> None:
        self.shards: dict[str, tuple[int, int]] = {}  # name -> (first channel, channels)
        first = 0
        for name, size in shard_sizes.items():
            self.shards[name] = (first, size)
            first += size


class GatedDelta(Recurrence):
    """Linear attention by the gated delta rule, as GatedDeltaSpec describes it.

    Parameters: `in_proj` with the shards qkv, z, b and a; `conv`, over the channels of q, k, v; `A_log` [value
    heads] and `dt_bias` [decays]; `norm`; `out`. q, k and v are shards of their own of both if the spec says so. With a
    gate_rank, `z_up` and `a_up` are the second matrices of z and a.
    """

    def __init__(self, spec: GatedDeltaSpec, hidden_size: int, *, compute: ComputeConfig, method: LinearMethod) -> None:
        super().__init__(compute)
        self.spec = spec
        heads = spec.num_value_heads
        z_size, a_size = spec.gate_rank or spec.value_size, spec.gate_rank or spec.num_decays
        self.sizes = [spec.conv_size, z_size, heads, a_size]
        own = {"q": spec.key_size, "k": spec.key_size, "v": spec.value_size} if spec.has_own_qkv else {}
        shards = {**(own or {"qkv": spec.conv_size}), "z": z_size, "b": heads, "a": a_size}
        self.in_proj = Linear(hidden_size, shards, has_bias=False, method=method)
        self.conv = ConvTaps(spec.kernel_size, spec.conv_size, own)
        self.A_log = empty_parameter((heads,), torch.float32)
        self.dt_bias = empty_parameter((spec.num_decays,), torch.float32)
        self.z_up, self.a_up = (
            None if spec.gate_rank is None else Linear(spec.gate_rank, size, has_bias=False, method=method)
            for size in (spec.value_size, spec.num_decays)
        )
        self.norm = Norm(spec.norm, spec.value_dim)
        self.out = Linear(spec.value_size, hidden_size, has_bias=False, method=method)
        self._convolve = compute.ops.convolve(spec.kernel_size, spec.conv_size)
        self._run_gated_delta = compute.ops.gated_delta(spec)

    def scan(
        self, rows: torch.Tensor, group: StateGroupBatch, state: LayerState, adapter_slots: torch.Tensor | None
    ) -> torch.Tensor:
        qkv, z, b, a = torch.split_with_sizes(rows, self.sizes, dim=1)
        if self.z_up is not None and self.a_up is not None:
            z, a = (up(x, adapter_slots=adapter_slots) for up, x in ((self.z_up, z), (self.a_up, a)))
        inputs, matrices = state.parts
        convolved = self._convolve(qkv, self.conv.weight, inputs, group, has_silu=True, out_dtype=torch.float32)
        norm = self.norm.row_input
        assert norm.weight is not None
        weights = DeltaWeights(self.A_log, self.dt_bias, norm.weight, norm.eps)
        return self._run_gated_delta(convolved, DeltaGates(z, b, a), weights, matrices, group)
