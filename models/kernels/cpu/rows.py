"""Whole rows outside linear layers (C++, src/rows/rows.cpp): sums with a norm in them, norms, gates, copies."""

import torch

from models.kernels.cpu.library import KernelLibrary, kernel_library, required_library
from models.kernels.row_input import PLAIN, RowInput

_TYPES = (torch.bfloat16, torch.float32)
_LANES = 16  # columns must be a multiple of this


def supports_rows(x: torch.Tensor) -> bool:
    """Whether the kernels of this file support `x` [..., K]. They compute no gradients."""
    is_supported = x.device.type == "cpu" and x.dtype in _TYPES and x.shape[-1] % _LANES == 0
    return is_supported and not x.requires_grad and kernel_library() is not None


def prepare_rows(x: torch.Tensor, prepare: RowInput, *, library: KernelLibrary | None = None) -> torch.Tensor:
    """x [T, K] (twice as wide for a gated `prepare`; rows may be strided) after `prepare`: [T, K] fp32."""
    assert x.stride(1) == 1
    out = torch.empty(len(x), x.shape[1] // (2 if prepare.is_gated else 1), dtype=torch.float32)
    (library or required_library()).prepare_rows(
        *(x.data_ptr(), x.dtype == torch.bfloat16, x.stride(0), *out.shape, *prepare.arguments(), out.data_ptr())
    )
    return out


def join_rows(
    x: torch.Tensor,
    y: torch.Tensor,
    norm: RowInput | None,
    *,
    skip: float = 1.0,
    scale: float = 1.0,
    norms_sum: bool = False,
    library: KernelLibrary | None = None,
) -> torch.Tensor:
    """x becomes skip * x + scale * norm(y), or norm(skip * x + scale * y) with `norms_sum`; returned.

    x, y: [T, K], contiguous.
    """
    assert x.is_contiguous()
    assert y.is_contiguous()
    (library or required_library()).join_rows(
        *(x.data_ptr(), x.dtype == torch.bfloat16, y.data_ptr(), y.dtype == torch.bfloat16),
        *(*x.shape, *(norm or PLAIN).arguments(), skip, scale, norms_sum),
    )
    return x


def gate_rows(x: torch.Tensor, gate: torch.Tensor, *, library: KernelLibrary | None = None) -> torch.Tensor:
    """x [T, ...], contiguous, times sigmoid(gate), in place; a row of `gate` is contiguous too."""
    assert x.is_contiguous()
    assert x.dtype == gate.dtype
    columns = x[0].numel()
    (library or required_library()).gate_rows(
        *(x.data_ptr(), gate.data_ptr(), x.dtype == torch.bfloat16, gate.stride(0), len(x), columns)
    )
    return x


def copy_heads(x: torch.Tensor, out: torch.Tensor, *, library: KernelLibrary | None = None) -> None:
    """out [T, H, K] becomes x. Rows and heads of both may be strided."""
    assert x.shape == out.shape
    assert x.dtype == out.dtype
    assert x.stride(2) == out.stride(2) == 1
    strides = [stride * x.element_size() for tensor in (x, out) for stride in tensor.stride()[:2]]
    (library or required_library()).copy_heads(
        *(x.data_ptr(), *strides[:2], out.data_ptr(), *strides[2:], len(x), x.shape[1], x.shape[2] * x.element_size())
    )
