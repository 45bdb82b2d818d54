"""Convolution and gated delta rule of recurrent layers on the native kernels (C++)."""

import torch

from models.batch import StateGroupBatch
from models.kernels.cpu.library import KernelLibrary, kernel_library, required_library

_MAX_TAPS = 8  # kMaxTaps of causal_conv.cpp
_LANES = 16  # channels, and sizes of heads, must be multiples of


def takes_conv(rows: torch.Tensor, taps: torch.Tensor) -> bool:
    """Whether the kernel takes these: see `convolve`."""
    return len(taps) <= _MAX_TAPS and taps.shape[1] % _LANES == 0 and _runs_on(rows)


def takes_delta(rows: torch.Tensor, state: torch.Tensor) -> bool:
    """Whether the kernel takes these: see `run_gated_delta`."""
    return state.shape[2] % _LANES == state.shape[3] % _LANES == 0 and _runs_on(rows)


def _runs_on(rows: torch.Tensor) -> bool:
    is_taken = rows.device.type == "cpu" and rows.dtype in (torch.bfloat16, torch.float32)
    return is_taken and kernel_library() is not None


def convolve(
    rows: torch.Tensor,
    taps: torch.Tensor,
    state: torch.Tensor,
    group: StateGroupBatch,
    *,
    bias: torch.Tensor | None = None,
    gates: tuple[torch.Tensor, torch.Tensor] | None = None,
    has_silu: bool = False,
    out_dtype: torch.dtype,
    library: KernelLibrary | None = None,
) -> torch.Tensor:
    """y[t] = sum over j of taps[j] * rows[t - (K - 1) + j], plus bias: [T, C].

    rows: [T, C]. taps: [K, C] fp32. state: [blocks, K - 1, C], the last inputs, read at the group's sources and written
    at its targets. gates: what rows are multiplied by before, and y after; views of the same tensor. out_dtype: fp32 or
    that of rows.
    """
    before, after = gates or (None, None)
    for gate in (before, after):
        assert gate is None or (gate.stride() == rows.stride() and gate.dtype == rows.dtype)
    assert state.dtype == rows.dtype
    assert rows.stride(1) == 1
    out = torch.empty((len(rows), taps.shape[1]), dtype=out_dtype)
    (library or required_library()).causal_conv(
        *(rows.dtype == torch.bfloat16, rows.data_ptr(), _address(before), _address(after), rows.stride(0)),
        *(taps.data_ptr(), _address(bias), has_silu, state.data_ptr(), *_places(group)),
        *(out_dtype == torch.bfloat16, out.data_ptr(), taps.shape[1], len(taps)),
    )
    return out


def run_gated_delta(
    qkv: torch.Tensor,
    gates: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    weights: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    eps: float,
    state: torch.Tensor,
    group: StateGroupBatch,
    *,
    tiles_key_heads: bool,
    library: KernelLibrary | None = None,
) -> torch.Tensor:
    """norm(y) * silu(z) with y by the gated delta rule (GatedDeltaSpec): [T, H * V] in z's dtype.

    qkv: [T, channels of queries, keys and values] fp32, behind the convolution. gates: z [T, H * V], b and a [T, H],
    views of one tensor. weights: log_rate and dt_bias [H], and the norm's [V], fp32. state: [blocks, H, K, V] fp32,
    read at the group's sources and written at its targets.
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
        *(*(weight.data_ptr() for weight in weights), eps, state.data_ptr(), *_places(group), out.data_ptr()),
        *(num_key_heads, num_heads, key_dim, value_dim, tiles_key_heads),
    )
    return out


def _places(group: StateGroupBatch) -> tuple[int, int, int, int]:
    """Sources, targets, row offsets and number of the texts."""
    addresses = (group.sources.data_ptr(), group.targets.data_ptr(), group.cu_seqlens.data_ptr())
    return *addresses, len(group.sources)


def _address(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
