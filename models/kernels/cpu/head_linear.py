"""A matrix of its own for each head, in bf16 (C++, src/dense/head_linear.cpp)."""

import torch

from models.kernels.cpu.arena import HugePageArena
from models.kernels.cpu.library import KernelLibrary
from models.kernels.cpu.packed_weight import PackedWeight, gather_rows, pack_weight
from models.kernels.formats import WeightFormat


def pack_heads(weight: torch.Tensor, arena: HugePageArena | None = None, *, library: KernelLibrary) -> torch.Tensor:
    """Return the numbers of `weight` [H, out, in], bf16, in the kernel's order, in a tensor of the same shape.

    in, out: multiples of 16. arena: memory for the result; without one, it has its own.
    """
    num_heads, out_features, in_features = weight.shape
    packed = pack_weight(
        WeightFormat.BF16, weight.flatten(0, 1), num_heads * out_features, in_features, arena=arena, library=library
    )
    return packed.data.view(torch.bfloat16).view(weight.shape)


def unpack_heads(packed: torch.Tensor, *, library: KernelLibrary) -> torch.Tensor:
    """Return the matrices that `pack_heads` packed: [H, out, in]."""
    num_heads, out_features, in_features = packed.shape
    num_rows = num_heads * out_features
    weight = PackedWeight(WeightFormat.BF16, num_rows, in_features, packed.view(torch.uint8))
    return gather_rows(weight, torch.arange(num_rows), packed.dtype, library=library).view(packed.shape)


def multiply_heads(packed: torch.Tensor, x: torch.Tensor, out: torch.Tensor, *, library: KernelLibrary) -> None:
    """Write W[h] x[t, h] to out [T, H, out], for x [T, H, in] and `pack_heads(W)`.

    Rows and heads of x and out may be strided; all are bf16.
    """
    num_heads, out_features, in_features = packed.shape
    assert x.dtype == out.dtype == packed.dtype == torch.bfloat16
    assert x.shape == (len(x), num_heads, in_features)
    assert out.shape == (len(x), num_heads, out_features)
    assert x.stride(2) == out.stride(2) == 1
    library.head_linear(
        *(x.data_ptr(), x.stride(0), x.stride(1), out.data_ptr(), out.stride(0), out.stride(1)),
        *(packed.data_ptr(), len(x), num_heads, in_features, out_features),
    )
