"""Whole-row operations (C++): norms and gated activations on their own, and the greedy choice of tokens."""

import torch

from models.kernels.cpu.library import KernelLibrary, required_library
from models.kernels.row_input import RowInput


def prepare_rows(x: torch.Tensor, prepare: RowInput, *, library: KernelLibrary | None = None) -> torch.Tensor:
    """The prepared rows, [T, K] in x's dtype, for x [T, K] (or [T, 2K] if gated): bf16 or fp32, K a multiple of 16.

    Only where no native linear layer follows; PackedLinear takes `prepare` itself.
    """
    library = library or required_library()
    columns = x.shape[1] // (2 if prepare.is_gated else 1)
    assert columns % 16 == 0
    assert x.stride(1) == 1
    out = torch.empty(x.shape[0], columns, dtype=x.dtype)
    library.prepare_rows(
        *(x.dtype == torch.bfloat16, x.data_ptr(), x.stride(0), x.shape[0], columns, prepare.kind),
        None if prepare.weight is None else prepare.weight.data_ptr(),
        None if prepare.bias is None else prepare.bias.data_ptr(),
        *(prepare.eps, out.data_ptr(), out.stride(0)),
    )
    return out


def argmax_rows(logits: torch.Tensor, *, library: KernelLibrary | None = None) -> torch.Tensor:
    """[L] int64, the first largest column of each row of logits ([L, V] fp32); V for a row of nothing but NaN."""
    library = library or required_library()
    assert logits.dtype == torch.float32
    assert logits.stride(1) == 1
    out = torch.empty(logits.shape[0], dtype=torch.int64)
    library.argmax_rows(logits.data_ptr(), logits.stride(0), *logits.shape, out.data_ptr())
    return out
