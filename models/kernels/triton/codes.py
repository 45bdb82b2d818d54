"""Products of rows with quantized weights whose codes stay as they are in memory, and dequantization (Triton).

A weight is value[n, k] = (number(code[n, k]) - zero[n, g]) * scale[n, g] - minimum[n, g], with g = k // group. Codes
are multiplied without their scales, which is exact in 16 bits, and the sums of each group are scaled in fp32: results
equal dequantization in fp32. Numbers of a table that 16 bits do not hold are multiplied in two parts.

4-bit codes have 16 bytes for 32 columns: byte j has column j in its low bits, and column j + 16 in the others. 6-bit
codes have their upper two bits in 8 more bytes: byte j has columns j (bits 0-1), j + 16 (2-3), j + 8 (4-5) and j + 24
(6-7).
"""

import torch
import triton
import triton.language as tl

from models.kernels.coded_weight import CODE_COLUMNS, CodedWeight, CodeKind
from models.kernels.triton.launch import launch
from models.kernels.triton.moe import SortedPairs
from models.kernels.triton.tuned import GroupedTiles

_TILE = 128  # most columns that are multiplied before they are scaled
_BLOCK = 1024  # columns of a program that dequantizes
MOST_CODED_ROWS = 64  # of a tile
_NO_GROUPS = (None,) * 5


_NIBBLES = tl.constexpr(int(CodeKind.NIBBLES))
_TABLE = tl.constexpr(int(CodeKind.TABLE))
_SIX_BITS = tl.constexpr(int(CodeKind.SIX_BITS))
_E4M3 = tl.constexpr(int(CodeKind.E4M3))
_IS_WIDE = tl.constexpr(int(CodeKind.INT8))  # kinds from this one on have a byte for each code


@triton.jit
def _scale(numbers, supers, at, super_at, mask, E8M0: tl.constexpr):
    """Load scales or minima, in fp32."""
    found = tl.load(numbers + at, mask=mask, other=0)
    if E8M0:
        bits = found.to(tl.int32)
        scale = tl.where(bits == 0, 1 << 22, bits << 23).to(tl.float32, bitcast=True)  # 0 is 2^-127, a subnormal
    else:
        scale = found.to(tl.float32)
        if supers is not None:
            scale *= tl.load(supers + super_at, mask=mask, other=0.0).to(tl.float32)
    return scale


@triton.jit
def _wide_numbers(codes, KIND: tl.constexpr):
    """Return the fp32 numbers of codes with a byte each."""
    if KIND == _E4M3:
        bits = codes.to(tl.int32)
        # Exponent and mantissa at the low end of fp32's, whose exponent is larger by 120; subnormals fit, too.
        size = ((bits & 127) << 20).to(tl.float32, bitcast=True) * 1.329227995784916e36
        size = tl.where((bits & 127) == 127, float("nan"), size)
        numbers = tl.where(bits > 127, -size, size)
    else:
        numbers = codes.to(tl.float32)
    return numbers


@triton.jit
def _numbers(halves, upper, table, KIND: tl.constexpr, OFFSET: tl.constexpr):
    """Return the fp32 numbers of 4-bit codes. upper: the two bits above each, of SIX_BITS."""
    if KIND == _TABLE:
        numbers = tl.load(table + halves)
    elif KIND == _SIX_BITS:
        numbers = (halves + upper * 16 - OFFSET).to(tl.float32)
    else:
        numbers = (halves - OFFSET).to(tl.float32)
    return numbers


@triton.jit
def _product(x, numbers, total, IS_EXACT: tl.constexpr):
    """Add x [GROUPS, M, W] times numbers [GROUPS, W, N] to the total. IS_EXACT: whether x's dtype holds the numbers."""
    whole = numbers.to(x.dtype)
    total = tl.dot(x, whole, total, input_precision="ieee")
    if not IS_EXACT:
        total = tl.dot(x, (numbers - whole.to(tl.float32)).to(x.dtype), total, input_precision="ieee")
    return total


@triton.jit(do_not_specialize=["M"])
def multiply_kernel(
    x,  # [M, K]
    codes,
    upper,
    table,
    scales,
    zeros,
    minima,
    supers,
    super_minima,
    bias,  # [N], or None; of each expert
    residual,  # [M, N], or None; may be out
    order,  # of grouped rows: see models/kernels/triton/moe.py; or None
    ends,
    expert_of_tile,
    tile_ends,
    factors,  # [P] fp32 of the pairs, or None
    out,  # [M, N], or [P, N] of the pairs
    M,
    N,
    K,
    x_row,
    residual_row,
    out_row,
    KIND: tl.constexpr,
    OFFSET: tl.constexpr,
    IS_EXACT: tl.constexpr,
    E8M0: tl.constexpr,
    GROUP: tl.constexpr,  # columns with a scale
    ROW_GROUP: tl.constexpr,
    SUPER_GROUP: tl.constexpr,
    TILE: tl.constexpr,  # columns that are multiplied before they are scaled: a part of a group, or two groups of 16
    GROUPS: tl.constexpr,  # tiles side by side
    EXPERTS: tl.constexpr,  # whose matrices of N rows W has; 1 without groups
    SHARED_BY: tl.constexpr,  # pairs with the same row of x; 1 without groups
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """out = x W^T + bias + residual, or each pair's product with its expert. Grid: (blocks of N, blocks of M)."""
    of_block = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    targets = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)  # rows of out
    is_row = targets < M
    first_row, columns = 0, K
    if order is not None:
        found = tl.load(expert_of_tile + tl.program_id(1))
        expert = tl.minimum(found, EXPERTS - 1)
        has_earlier = expert > 0
        first_tile = tl.load(tile_ends + expert - 1, mask=has_earlier, other=0)
        first_pair = tl.load(ends + expert - 1, mask=has_earlier, other=0)
        at_pair = first_pair + (tl.program_id(1) - first_tile) * BLOCK_M + tl.arange(0, BLOCK_M)
        is_row = at_pair < tl.where(found < EXPERTS, tl.load(ends + expert), 0)
        targets = tl.load(order + at_pair, mask=is_row, other=0)
        first_row = expert * N
        columns = tl.where(found < EXPERTS, K, 0)  # a tile without an expert reads nothing
    n = of_block[None, None, :]
    m = (targets // SHARED_BY)[None, :, None]
    n_inside, m_inside = n < N, is_row[None, :, None]
    row = first_row + n.to(tl.int64)
    scale_row = row // ROW_GROUP * ((K + GROUP - 1) // GROUP)
    super_row = row * (K // SUPER_GROUP)
    is_wide: tl.constexpr = KIND >= _IS_WIDE
    W: tl.constexpr = TILE if is_wide else TILE // 2
    w = tl.arange(0, W)
    at = w if is_wide else w // 16 * 32 + w % 16  # columns of the tile
    total = tl.zeros((GROUPS, BLOCK_M, BLOCK_N), dtype=tl.float32)
    for first in range(0, columns, TILE * GROUPS):
        start = (first + tl.arange(0, GROUPS) * TILE)[:, None, None]  # first columns of the tiles
        inside = start < K
        w_mask, x_mask = n_inside & inside, m_inside & inside
        x_at = m.to(tl.int64) * x_row + start + at[None, None, :]
        left = tl.load(x + x_at, mask=x_mask, other=0.0)
        scale = _scale(scales, supers, scale_row + start // GROUP, super_row + start // SUPER_GROUP, w_mask, E8M0)
        zero = 0.0
        if zeros is not None:
            zero = tl.load(zeros + scale_row + start // GROUP, mask=w_mask, other=0).to(tl.float32)
        part = tl.zeros((GROUPS, BLOCK_M, BLOCK_N), dtype=tl.float32)
        if is_wide:
            numbers = _wide_numbers(tl.load(codes + row * K + start + at[None, :, None], mask=w_mask, other=0), KIND)
            total += _product(left, numbers - zero, part, IS_EXACT) * scale
        else:
            pairs = tl.load(codes + row * (K // 2) + start // 2 + w[None, :, None], mask=w_mask, other=0).to(tl.int32)
            bits = pairs
            if KIND == _SIX_BITS:
                byte = start // 4 + (w // 16 * 8 + w % 8)[None, :, None]
                bits = tl.load(upper + row * (K // 4) + byte, mask=w_mask, other=0).to(tl.int32)
                bits = bits >> (w % 16 // 8 * 4)[None, :, None]
            right = tl.load(x + x_at + 16, mask=x_mask, other=0.0)
            low = _numbers(pairs & 15, bits & 3, table, KIND, OFFSET) - zero
            high = _numbers(pairs >> 4, bits >> 2 & 3, table, KIND, OFFSET)
            part = _product(left, low, part, IS_EXACT)
            if GROUP == 16:
                second = start + 16
                total += part * scale
                part = tl.zeros((GROUPS, BLOCK_M, BLOCK_N), dtype=tl.float32)
                scale = _scale(
                    scales, supers, scale_row + second // GROUP, super_row + second // SUPER_GROUP, w_mask, E8M0
                )  # fmt: skip
                if zeros is not None:
                    zero = tl.load(zeros + scale_row + second // GROUP, mask=w_mask, other=0).to(tl.float32)
            total += _product(right, high - zero, part, IS_EXACT) * scale
            if minima is not None:
                least = _scale(
                    minima, super_minima, scale_row + start // GROUP, super_row + start // SUPER_GROUP, w_mask, False
                )  # fmt: skip
                sums = tl.sum(left.to(tl.float32) + right.to(tl.float32), 2, keep_dims=True)
                total -= sums * least
    inside, target = (of_block < N)[None, :] & is_row[:, None], targets[:, None].to(tl.int64)
    y = tl.sum(total, 0)
    if bias is not None:
        y += tl.load(bias + first_row + of_block, mask=of_block < N, other=0.0).to(tl.float32)[None, :]
    if residual is not None:
        y += tl.load(residual + target * residual_row + of_block[None, :], mask=inside, other=0.0).to(tl.float32)
    if factors is not None:
        y *= tl.load(factors + targets, mask=is_row, other=0.0)[:, None]
    tl.store(out + target * out_row + of_block[None, :], y.to(out.dtype.element_ty), mask=inside)


@triton.jit
def dequantize_kernel(
    ids,  # rows of the weight, or None: all from first_row on
    codes,
    upper,
    table,
    scales,
    zeros,
    minima,
    supers,
    super_minima,
    out,  # [rows, K], contiguous
    first_row,
    K,
    KIND: tl.constexpr,
    OFFSET: tl.constexpr,
    E8M0: tl.constexpr,
    GROUP: tl.constexpr,
    ROW_GROUP: tl.constexpr,
    SUPER_GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out = rows of W. Grid: (rows, blocks of columns)."""
    target = tl.program_id(0).to(tl.int64)
    row = first_row + target
    if ids is not None:
        row = tl.load(ids + target).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < K
    scale_at = row // ROW_GROUP * ((K + GROUP - 1) // GROUP) + at // GROUP
    super_at = row * (K // SUPER_GROUP) + at // SUPER_GROUP
    if KIND >= _IS_WIDE:
        numbers = _wide_numbers(tl.load(codes + row * K + at, mask=inside, other=0), KIND)
    else:
        byte = at // 32 * 16 + at % 16
        pairs = tl.load(codes + row * (K // 2) + byte, mask=inside, other=0).to(tl.int32)
        is_high = at % 32 // 16
        bits = pairs
        if KIND == _SIX_BITS:
            bits = tl.load(upper + row * (K // 4) + at // 32 * 8 + at % 8, mask=inside, other=0).to(tl.int32)
            bits = bits >> (at % 16 // 8 * 4 + is_high * 2) & 3
        numbers = _numbers(pairs >> is_high * 4 & 15, bits, table, KIND, OFFSET)
    if zeros is not None:
        numbers -= tl.load(zeros + scale_at, mask=inside, other=0).to(tl.float32)
    values = numbers * _scale(scales, supers, scale_at, super_at, inside, E8M0)
    if minima is not None:
        values -= _scale(minima, super_minima, scale_at, super_at, inside, False)
    tl.store(out + target * K + at, values.to(out.dtype.element_ty), mask=inside)


def multiply_codes(
    x: torch.Tensor,
    weight: CodedWeight,
    out: torch.Tensor,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
) -> None:
    """Write x W^T + bias + residual to `out` [T, rows], which may be the residual. x: [T, columns]; T may be 0."""
    assert x.stride(1) == out.stride(1) == 1
    assert x.shape[1] == weight.columns
    num_rows = len(x)
    if not num_rows:
        return
    block_m = 16 if num_rows <= 16 else 32 if num_rows <= 32 else 64
    _launch(x, weight, out, bias, residual, block_m, triton.cdiv(num_rows, block_m), _NO_GROUPS, 1)


def multiply_grouped_codes(
    x: torch.Tensor,
    weight: CodedWeight,
    biases: torch.Tensor | None,
    pairs: SortedPairs,
    tiles: GroupedTiles,
    *,
    factors: torch.Tensor | None = None,
    out_dtype: torch.dtype,
) -> torch.Tensor:
    """Return factor * (W x + bias) of every pair, with the rows of its expert in `weight`: [P, N] in `out_dtype`.

    x: [T, columns], a row for P / T pairs that follow each other. weight: the experts' matrices of N rows, stacked.
    biases: [E, N], contiguous. factors: [P] fp32. pairs: sorted for tiles of `tiles.rows`, at most MOST_CODED_ROWS.
    """
    num_experts, num_pairs = len(pairs.ends), len(pairs.order)
    out = torch.empty(num_pairs, weight.rows // num_experts, dtype=out_dtype, device=x.device)
    if num_pairs:
        groups = (pairs.order, pairs.ends, pairs.expert_of_tile, pairs.tile_ends, factors)
        _launch(x, weight, out, biases, None, tiles.rows, len(pairs.expert_of_tile), groups, num_experts)
    return out


def _launch(
    x: torch.Tensor,
    weight: CodedWeight,
    out: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    block_m: int,
    num_blocks: int,
    groups: tuple[torch.Tensor | None, ...],
    num_experts: int,
) -> None:
    """Launch `multiply_kernel` on blocks of `block_m` rows. groups: its arguments from `order` to `factors`."""
    assert weight.columns % CODE_COLUMNS == 0
    is_wide = weight.kind >= CodeKind.INT8
    # A tile is a part of a group, and of all columns: the last group may be short.
    divided = weight.columns if weight.group >= weight.columns else weight.group | weight.columns
    tile = CODE_COLUMNS if weight.group == 16 else min(divided & -divided, _TILE)
    # With 16 rows, more groups' sums fit into registers than with 64.
    tiles_abreast = max(1, (128 if is_wide else 256) * 16 // block_m // tile)
    num_outputs = weight.rows // num_experts
    launch(
        multiply_kernel,
        (triton.cdiv(num_outputs, 32), num_blocks),
        *(x, *_tensors(weight), bias, residual, *groups, out, len(x), num_outputs, weight.columns),
        *(x.stride(0), 0 if residual is None else residual.stride(0), out.stride(0)),
        IS_EXACT=weight.kind is not CodeKind.TABLE or weight.is_table_exact or x.dtype == torch.float32,
        **_meta(weight),
        TILE=tile,
        GROUPS=tiles_abreast,
        EXPERTS=num_experts,
        SHARED_BY=1 if groups is _NO_GROUPS else len(out) // len(x),
        BLOCK_M=block_m,
        BLOCK_N=32,
        num_warps=4,
        num_stages=3,
    )


def dequantize_codes(
    weight: CodedWeight, dtype: torch.dtype, *, ids: torch.Tensor | None = None, first: int = 0, count: int = 0
) -> torch.Tensor:
    """Return rows `ids` [n], or rows first .. first + count - 1, of the matrix: [n, columns] in `dtype`.

    Numbers are computed in fp32 and rounded once.
    """
    num_rows = count if ids is None else len(ids)
    out = torch.empty(num_rows, weight.columns, dtype=dtype, device=weight.codes.device)
    if num_rows:
        launch(
            dequantize_kernel,
            (num_rows, triton.cdiv(weight.columns, _BLOCK)),
            *(ids, *_tensors(weight), out, first, weight.columns),
            **_meta(weight),
            BLOCK=_BLOCK,
            num_warps=4,
        )
    return out


def _tensors(weight: CodedWeight) -> tuple[torch.Tensor | None, ...]:
    codes = weight.codes.view(torch.uint8) if weight.kind is CodeKind.E4M3 else weight.codes
    parts = (weight.upper, weight.table, weight.scales, weight.zeros, weight.minima, weight.supers, weight.super_minima)
    return codes, *parts


def _meta(weight: CodedWeight) -> dict[str, int | bool]:
    return {
        "KIND": int(weight.kind),
        "OFFSET": weight.offset,
        "E8M0": weight.scales.dtype == torch.uint8 and weight.supers is None,
        "GROUP": weight.group,
        "ROW_GROUP": weight.row_group,
        "SUPER_GROUP": weight.super_group,
    }
