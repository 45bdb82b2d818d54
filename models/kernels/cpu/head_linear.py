"""A matrix of its own for each head, in bf16 (C++, src/dense/head_linear.cpp)."""

import torch

from models.kernels.cpu.arena import HugePageArena
from models.kernels.cpu.library import KernelLibrary, required_library
from models.kernels.cpu.packed_weight import WeightFormat, pack_weight

_LANES = 16  # outputs and inputs must be multiples of this


def supports_heads(in_features: int, out_features: int) -> bool:
    """Whether the kernel supports heads' matrices of that shape."""
    return in_features % _LANES == out_features % _LANES == 0


def pack_heads(
    weight: torch.Tensor, *, arena: HugePageArena | None = None, library: KernelLibrary | None = None
) -> torch.Tensor:
    """The numbers of `weight` [H, out, in], bf16, in the kernel's order, in a tensor of the same shape.

    arena: where they are stored; without one, in memory of their own.
    """
    num_heads, out_features, in_features = weight.shape
    assert supports_heads(in_features, out_features)
    packed = pack_weight(
        WeightFormat.BF16, weight.flatten(0, 1), num_heads * out_features, in_features, arena=arena, library=library
    )
    return packed.data.view(torch.bfloat16).view(weight.shape)


def multiply_heads(
    packed: torch.Tensor, x: torch.Tensor, out: torch.Tensor, *, library: KernelLibrary | None = None
) -> None:
    """out [T, H, out] = W[h] x[t, h], of x [T, H, in] and `pack_heads(W)`. Rows and heads may be strided; all bf16."""
    num_heads, out_features, in_features = packed.shape
    assert x.dtype == out.dtype == packed.dtype == torch.bfloat16
    assert x.shape == (len(x), num_heads, in_features)
    assert out.shape == (len(x), num_heads, out_features)
    assert x.stride(2) == out.stride(2) == 1
    (library or required_library()).head_linear(
        *(x.data_ptr(), x.stride(0), x.stride(1), out.data_ptr(), out.stride(0), out.stride(1)),
        *(packed.data_ptr(), len(x), num_heads, in_features, out_features),
    )
