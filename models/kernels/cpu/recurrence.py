"""Convolution and gated delta rule of recurrent layers (C++, src/recurrence)."""

from typing import NamedTuple

import torch

from models.batch import StateGroupBatch
from models.kernels.cpu.library import KernelLibrary, kernel_library, required_library

_MAX_KERNEL_SIZE = 8  # kMaxKernelSize of causal_conv.cpp
_LANES = 16  # channels and head sizes must be multiples of this


def supports_conv(rows: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether `convolve` supports these."""
    return len(weight) <= _MAX_KERNEL_SIZE and weight.shape[1] % _LANES == 0 and _has_kernel(rows)


def supports_delta(rows: torch.Tensor, state: torch.Tensor) -> bool:
    """Whether `run_gated_delta` supports these."""
    return state.shape[2] % _LANES == state.shape[3] % _LANES == 0 and _has_kernel(rows)


def _has_kernel(rows: torch.Tensor) -> bool:
    is_supported = rows.device.type == "cpu" and rows.dtype in (torch.bfloat16, torch.float32)
    return is_supported and not rows.requires_grad and kernel_library() is not None


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
    library: KernelLibrary | None = None,
) -> torch.Tensor:
    """y[t] = sum over j of weight[j] * rows[t - (K - 1) + j], plus bias: [T, C].

    rows: [T, C]. weight: [K, C] fp32. state: [blocks, K - 1, C], the last inputs, read at the group's sources and
    written at its targets. gates: one multiplies the rows, the other y; both are views of the same tensor as rows.
    out_dtype: fp32 or that of rows.
    """
    before, after = gates or (None, None)
    for gate in (before, after):
        assert gate is None or (gate.stride() == rows.stride() and gate.dtype == rows.dtype)
    assert state.dtype == rows.dtype
    assert rows.stride(1) == 1
    out = torch.empty((len(rows), weight.shape[1]), dtype=out_dtype)
    (library or required_library()).causal_conv(
        *(rows.dtype == torch.bfloat16, rows.data_ptr(), _address(before), _address(after), rows.stride(0)),
        *(weight.data_ptr(), _address(bias), has_silu, state.data_ptr(), *_group_arguments(group)),
        *(out_dtype == torch.bfloat16, out.data_ptr(), weight.shape[1], len(weight)),
    )
    return out


class DeltaGates(NamedTuple):
    """Views of one tensor."""

    z: torch.Tensor  # [T, H * V]
    b: torch.Tensor  # [T, H]
    a: torch.Tensor  # [T, H]


class DeltaWeights(NamedTuple):
    """fp32."""

    A_log: torch.Tensor  # [H]
    dt_bias: torch.Tensor  # [H]
    norm_weight: torch.Tensor  # [V]
    norm_eps: float


def run_gated_delta(
    qkv: torch.Tensor,
    gates: DeltaGates,
    weights: DeltaWeights,
    state: torch.Tensor,
    group: StateGroupBatch,
    *,
    tiles_key_heads: bool,
    library: KernelLibrary | None = None,
) -> torch.Tensor:
    """norm(y) * silu(z) with y by the gated delta rule (GatedDeltaSpec): [T, H * V] in z's dtype.

    qkv: [T, channels of queries, keys and values] fp32, after the convolution. state: [blocks, H, K, V] fp32, read at
    the group's sources and written at its targets.
    """
    z, b, a = gates
    num_heads, key_dim, value_dim = state.shape[1:]
    num_key_heads = (qkv.shape[1] - num_heads * value_dim) // (2 * key_dim)
    assert z.stride() == b.stride() == a.stride()
    assert qkv.is_contiguous()
    assert qkv.dtype == state.dtype == torch.float32
    out = torch.empty((len(z), num_heads * value_dim), dtype=z.dtype)
    (library or required_library()).gated_delta(
        *(qkv.data_ptr(), z.dtype == torch.bfloat16, z.data_ptr(), b.data_ptr(), a.data_ptr(), z.stride(0)),
        *(weights.A_log.data_ptr(), weights.dt_bias.data_ptr(), weights.norm_weight.data_ptr(), weights.norm_eps),
        *(state.data_ptr(), *_group_arguments(group), out.data_ptr()),
        *(num_key_heads, num_heads, key_dim, value_dim, tiles_key_heads),
    )
    return out


def _group_arguments(group: StateGroupBatch) -> tuple[int, int, int, int]:
    """Sources, targets, row offsets and number of the sequences."""
    addresses = (group.sources.data_ptr(), group.targets.data_ptr(), group.cu_seqlens.data_ptr())
    return *addresses, len(group.sources)


def _address(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
