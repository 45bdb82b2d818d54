"""Convolution and gated delta rule of recurrent layers (C++, src/recurrence)."""

import torch

from models.batch import StateGroupBatch
from models.kernels.cpu.library import KernelLibrary, address
from models.kernels.operands import DeltaGates, DeltaWeights

MAX_KERNEL_SIZE = 8  # kMaxKernelSize of causal_conv.cpp


def convolve(
    rows: torch.Tensor,
    weight: torch.Tensor,
    state: torch.Tensor,
    group: StateGroupBatch,
    *,
    bias: torch.Tensor | None = None,
    gates: tuple[torch.Tensor, torch.Tensor] | None = None,
    has_silu: bool = False,
    out_dtype: torch.dtype,
    library: KernelLibrary,
) -> torch.Tensor:
    """Run a causal depthwise convolution (Convolve in ops.py). At most 8 taps, and a multiple of 16 channels."""
    before, after = gates or (None, None)
    for gate in (before, after):
        assert gate is None or (gate.stride() == rows.stride() and gate.dtype == rows.dtype)
    assert state.dtype == rows.dtype
    assert rows.stride(1) == 1
    out = torch.empty((len(rows), weight.shape[1]), dtype=out_dtype)
    library.causal_conv(
        *(rows.dtype == torch.bfloat16, rows.data_ptr(), address(before), address(after), rows.stride(0)),
        *(weight.data_ptr(), address(bias), has_silu, state.data_ptr(), *_group_arguments(group)),
        *(out_dtype == torch.bfloat16, out.data_ptr(), weight.shape[1], len(weight)),
    )
    return out


def run_gated_delta(
    qkv: torch.Tensor,
    gates: DeltaGates,
    weights: DeltaWeights,
    state: torch.Tensor,
    group: StateGroupBatch,
    *,
    tiles_key_heads: bool,
    library: KernelLibrary,
) -> torch.Tensor:
    """Run the gated delta rule, norm and gate (RunGatedDelta in ops.py). Head sizes are multiples of 16."""
    z, b, a = gates
    num_heads, key_dim, value_dim = state.shape[1:]
    num_key_heads = (qkv.shape[1] - num_heads * value_dim) // (2 * key_dim)
    assert z.stride() == b.stride() == a.stride()
    assert qkv.is_contiguous()
    assert qkv.dtype == state.dtype == torch.float32
    out = torch.empty((len(z), num_heads * value_dim), dtype=z.dtype)
    library.gated_delta(
        *(qkv.data_ptr(), z.dtype == torch.bfloat16, z.data_ptr(), b.data_ptr(), a.data_ptr(), z.stride(0)),
        *(weights.A_log.data_ptr(), weights.dt_bias.data_ptr(), weights.norm_weight.data_ptr(), weights.norm_eps),
        *(state.data_ptr(), *_group_arguments(group), out.data_ptr()),
        *(num_key_heads, num_heads, key_dim, value_dim, tiles_key_heads),
    )
    return out


def _group_arguments(group: StateGroupBatch) -> tuple[int, int, int, int]:
    """Return the kernels' arguments for a batch: addresses of sources, targets and cu_seqlens, number of sequences."""
    addresses = (group.sources.data_ptr(), group.targets.data_ptr(), group.cu_seqlens.data_ptr())
    return *addresses, len(group.sources)
