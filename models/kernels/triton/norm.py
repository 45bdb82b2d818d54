"""Norms of rows and of heads, and sums of the residual stream with a norm, in one kernel each (Triton).

RMS norm: y = x / sqrt(mean(x^2) + eps) * weight. Layer norm: y = (x - mean) / sqrt(var + eps) * weight + bias. Rows are
normed in fp32 registers, whole, whatever dtype they have in memory.
"""

import torch
import triton
import triton.language as tl

from models.kernels.row_input import InputKind, RowInput
from models.kernels.triton.launch import launch

MAX_COLUMNS = 1 << 14  # a row has to fit into the registers of a program

_PLAIN = tl.constexpr(int(InputKind.PLAIN))
_RMS_NORM = tl.constexpr(int(InputKind.RMS_NORM))
_NUMBERS_PER_THREAD = 8  # 16 bytes of bf16


@triton.jit
def _normalized(
    x, inside, weight, first, bias, at, columns, eps, KIND: tl.constexpr, WEIGHT: tl.constexpr, BIAS: tl.constexpr
):  # fmt: skip
    """Norm a row x in fp32, 0 where not `inside`. at: its columns. first: offset of the head's weight."""
    if KIND == _RMS_NORM:
        y = x * tl.rsqrt(tl.sum(x * x, 0) / columns + eps)
    else:
        centered = tl.where(inside, x - tl.sum(x, 0) / columns, 0.0)
        y = centered * tl.rsqrt(tl.sum(centered * centered, 0) / columns + eps)
    if WEIGHT:
        y *= tl.load(weight + first + at, mask=inside, other=0.0)
    if BIAS:
        y += tl.load(bias + at, mask=inside, other=0.0)
    return y


@triton.jit
def norm_kernel(
    x,  # [T, heads, columns]
    weight,  # [columns] fp32, or [heads, columns]
    bias,  # [columns] fp32
    out,  # [T, heads, columns]; may be x
    x_row,
    x_head,
    out_row,
    out_head,
    weight_head,
    columns,
    eps,
    KIND: tl.constexpr,
    WEIGHT: tl.constexpr,
    BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Norm a row of a head. Grid: (T, heads)."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = tl.arange(0, BLOCK)
    inside = at < columns
    rows = tl.load(x + row * x_row + head * x_head + at, mask=inside, other=0.0).to(tl.float32)
    y = _normalized(rows, inside, weight, head * weight_head, bias, at, columns, eps, KIND, WEIGHT, BIAS)
    tl.store(out + row * out_row + head * out_head + at, y.to(out.dtype.element_ty), mask=inside)


@triton.jit
def join_kernel(
    x,  # [T, columns], which becomes the result
    y,  # [T, columns]; may be x
    weight,  # [columns] fp32
    bias,  # [columns] fp32
    skip,
    scale,
    columns,
    eps,
    NORMS_SUM: tl.constexpr,
    KIND: tl.constexpr,
    WEIGHT: tl.constexpr,
    BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """x = skip * x + scale * norm(y), or norm(skip * x + scale * y). Grid: (T,)."""
    start = tl.program_id(0).to(tl.int64) * columns
    at = tl.arange(0, BLOCK)
    inside = at < columns
    stream = tl.load(x + start + at, mask=inside, other=0.0).to(tl.float32) * skip
    added = tl.load(y + start + at, mask=inside, other=0.0).to(tl.float32)
    if NORMS_SUM:
        total = stream + added * scale
        if KIND != _PLAIN:
            total = _normalized(total, inside, weight, 0, bias, at, columns, eps, KIND, WEIGHT, BIAS)
    else:
        if KIND != _PLAIN:
            added = _normalized(added, inside, weight, 0, bias, at, columns, eps, KIND, WEIGHT, BIAS)
        total = stream + added * scale
    tl.store(x + start + at, total.to(x.dtype.element_ty), mask=inside)


def norm_heads(x: torch.Tensor, norm: RowInput, out: torch.Tensor) -> None:
    """Write the norm of each head of x [T, heads, D] to `out`, of the same shape, which may be x.

    The norm's weight is [D], or [heads, D]. Rows and heads of both may be strided.
    """
    rows, heads, columns = x.shape
    assert x.shape == out.shape
    assert x.stride(2) == out.stride(2) == 1
    weight = norm.weight if norm.has_weight else None
    per_head = columns if weight is not None and weight.dim() == 2 else 0
    launch(
        norm_kernel,
        (rows, heads),
        *(x, weight, norm.bias, out, *x.stride()[:2], *out.stride()[:2], per_head, columns, norm.eps),
        **_meta(norm, columns),
    )


def norm_rows(x: torch.Tensor, norm: RowInput, dtype: torch.dtype) -> torch.Tensor:
    """Return the norm of rows x [T, columns] in `dtype`. Rows may be strided."""
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    norm_heads(x.unsqueeze(1), norm, out.unsqueeze(1))
    return out


def join_rows(
    x: torch.Tensor, y: torch.Tensor, norm: RowInput, *, skip: float, scale: float, norms_sum: bool
) -> torch.Tensor:
    """Set x to skip * x + scale * norm(y), or norm(skip * x + scale * y) with `norms_sum`, and return it: [T, K]."""
    assert x.is_contiguous()
    assert y.is_contiguous()
    assert x.shape == y.shape
    rows, columns = x.shape
    weight = norm.weight if norm.has_weight else None
    launch(
        join_kernel,
        (rows,),
        *(x, y, weight, norm.bias, skip, scale, columns, norm.eps),
        NORMS_SUM=norms_sum,
        **_meta(norm, columns),
    )
    return x


def _meta(norm: RowInput, columns: int) -> dict[str, int | bool]:
    block = triton.next_power_of_2(columns)
    return {
        "KIND": int(norm.kind),
        "WEIGHT": norm.has_weight and norm.weight is not None,
        "BIAS": norm.bias is not None,
        "BLOCK": block,
        "num_warps": min(max(block // (32 * _NUMBERS_PER_THREAD), 1), 16),
    }
