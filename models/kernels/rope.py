"""Rotary embedding fused with the KV write: one pass over a step's q, k and v rows (C++)."""

import torch

from models.kernels.cpu.library import KernelLibrary, kernel_library


def rope_and_write(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    positions: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    kv: torch.Tensor,
    slots: torch.Tensor,
    *,
    is_interleaved: bool = False,
    library: KernelLibrary | None = None,
) -> None:
    """Rotate q and k in place, then store k and v at `slots` of the KV tensor of the "cpu" attention back end.

    q: [T, H, D], k and v: [T, K, D], bf16 or fp32 like kv; rows may be strided, heads not. positions, slots: [T] int64;
    a row with a negative slot is not stored. cos, sin: [max_position, R / 2] fp32; the first R dimensions of a head
    turn, in pairs (i, i + R / 2), or (2i, 2i + 1) if interleaved.
    """
    library = library or kernel_library()
    assert library is not None
    num_tokens, num_kv_heads, head_dim = k.shape
    library.rope_kv_write(
        *(kv.dtype == torch.bfloat16, q.data_ptr(), q.stride(0), k.data_ptr(), k.stride(0), v.data_ptr(), v.stride(0)),
        *(positions.data_ptr(), cos.data_ptr(), sin.data_ptr(), 2 * cos.shape[1], is_interleaved),
        *(slots.data_ptr(), kv.data_ptr(), num_tokens, q.shape[1], num_kv_heads, head_dim),
    )
