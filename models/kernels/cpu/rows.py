"""Operations on whole rows outside linear layers (C++, src/rows/rows.cpp): norms, residual sums, gates, copies."""

import torch

from models.kernels.cpu.library import KernelLibrary
from models.kernels.row_input import Prologue, RowInput


def prepare_rows(x: torch.Tensor, prepare: RowInput, *, library: KernelLibrary) -> torch.Tensor:
    """Apply the prologue `prepare` to x [T, K] (twice as wide if gated; rows may be strided). Returns [T, K] fp32."""
    assert x.stride(1) == 1
    out = torch.empty(len(x), x.shape[1] // (2 if prepare.is_gated else 1), dtype=torch.float32)
    library.prepare_rows(
        *(x.data_ptr(), x.dtype == torch.bfloat16, x.stride(0), *out.shape, *prepare.arguments(), out.data_ptr())
    )
    return out


def apply_prologue(x: torch.Tensor, prologue: Prologue, *, library: KernelLibrary) -> torch.Tensor:
    """Return what `prologue` makes of x, in fp32."""
    return prepare_rows(x, prologue.row_input, library=library)


def join_rows(
    x: torch.Tensor,
    y: torch.Tensor,
    norm: Prologue,
    *,
    skip: float = 1.0,
    scale: float = 1.0,
    norms_sum: bool = False,
    library: KernelLibrary,
) -> torch.Tensor:
    """Set x to skip * x + scale * norm(y), or norm(skip * x + scale * y) with `norms_sum`, and return it: [T, K]."""
    assert x.is_contiguous()
    assert y.is_contiguous()
    library.join_rows(
        *(x.data_ptr(), x.dtype == torch.bfloat16, y.data_ptr(), y.dtype == torch.bfloat16),
        *(*x.shape, *norm.row_input.arguments(), skip, scale, norms_sum),
    )
    return x


def gate_rows(x: torch.Tensor, gate: torch.Tensor, *, library: KernelLibrary) -> torch.Tensor:
    """Multiply x [T, K] by sigmoid(gate) in place (GateRows in ops.py). Each row of `gate` is contiguous."""
    assert x.is_contiguous()
    assert x.dtype == gate.dtype
    columns = x[0].numel()
    library.gate_rows(
        *(x.data_ptr(), gate.data_ptr(), x.dtype == torch.bfloat16, gate.stride(0), len(x), columns),
        columns // gate[0].numel(),
    )
    return x


def bound_rows(x: torch.Tensor, limit: float, *, library: KernelLibrary) -> torch.Tensor:
    """Bound x [T, K] to +-limit, in place."""
    assert x.is_contiguous()
    library.bound_rows(x.data_ptr(), x.dtype == torch.bfloat16, *x.shape, limit)
    return x


def copy_heads(x: torch.Tensor, out: torch.Tensor, *, library: KernelLibrary) -> None:
    """Copy x to out, [T, H, K] each; rows and heads of both may be strided."""
    assert x.shape == out.shape
    assert x.dtype == out.dtype
    assert x.stride(2) == out.stride(2) == 1
    strides = [stride * x.element_size() for tensor in (x, out) for stride in tensor.stride()[:2]]
    library.copy_heads(
        *(x.data_ptr(), *strides[:2], out.data_ptr(), *strides[2:], len(x), x.shape[1], x.shape[2] * x.element_size())
    )
