"""Norm, rotation and scaling of query and key heads, and the write of keys and values to the KV cache, in one kernel.

For each head of a row, with x its numbers: y = norm(x), if the layer norms heads. Then dimensions d and d + R of y are
rotated by the row's angle d, for d < R: y[d] cos - y[d + R] sin, and y[d + R] cos + y[d] sin. Others stay. Queries are
multiplied by the row's factor. Keys and values go to the row's slot: block slot // P, offset slot % P; as codes, with
a scale for each head, if the cache is quantized.
"""

import math

import torch
import triton
import triton.language as tl

from models.kernels.row_input import InputKind, RowInput
from models.kernels.triton.kv_codes import CodedCache, write_key_codes, write_value_codes
from models.kernels.triton.launch import launch

_RMS_NORM = tl.constexpr(int(InputKind.RMS_NORM))
_HEADS = 4  # of a program
_NUMBERS_PER_THREAD = 8  # 16 bytes of bf16


@triton.jit
def _part(x, heads, is_head, stride, first, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Load dimensions first .. first + SIZE - 1 of heads: [heads, BLOCK] fp32, 0 beyond."""
    at = tl.arange(0, BLOCK)[None, :]
    return tl.load(x + heads * stride + first + at, mask=is_head & (at < SIZE), other=0.0).to(tl.float32)


@triton.jit
def _scaled_part(
    x, scale, weight, bias, heads, is_head, stride, first, SIZE: tl.constexpr, BLOCK: tl.constexpr,
    WEIGHT: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """Multiply a part of heads by the norm's factor and weight, and add its bias. stride: of the weight's heads."""
    y = x * scale
    if WEIGHT:
        y *= _part(weight, heads, is_head, stride, first, SIZE, BLOCK)
    if BIAS:
        y += _part(bias, heads, is_head, 0, first, SIZE, BLOCK)
    return y


@triton.jit
def _store_part(out, x, heads, is_head, stride, first, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)[None, :]
    tl.store(out + heads * stride + first + at, x.to(out.dtype.element_ty), mask=is_head & (at < SIZE))


@triton.jit
def _rotated(
    x, x_head, weight, weight_head, bias, eps, cos, sin, angle, factor, out, out_head, heads, is_head, writes,
    NORM: tl.constexpr, WEIGHT: tl.constexpr, BIAS: tl.constexpr, HALF: tl.constexpr, REST: tl.constexpr,
    HALF_BLOCK: tl.constexpr, REST_BLOCK: tl.constexpr,
):  # fmt: skip
    """Norm, rotate and scale some heads of a row, and write them to `out`. angle: of the row. NORM: its kind, or 0."""
    if HALF:
        a = _part(x, heads, is_head, x_head, 0, HALF, HALF_BLOCK)
        b = _part(x, heads, is_head, x_head, HALF, HALF, HALF_BLOCK)
    if REST:
        rest = _part(x, heads, is_head, x_head, 2 * HALF, REST, REST_BLOCK)
    if NORM:
        size: tl.constexpr = 2 * HALF + REST
        if NORM != _RMS_NORM:
            mean = tl.zeros_like(heads).to(tl.float32)
            if HALF:
                mean += tl.sum(a + b, 1, keep_dims=True) / size
            if REST:
                mean += tl.sum(rest, 1, keep_dims=True) / size
            if HALF:
                inside = tl.arange(0, HALF_BLOCK)[None, :] < HALF
                a, b = tl.where(inside, a - mean, 0.0), tl.where(inside, b - mean, 0.0)
            if REST:
                rest = tl.where(tl.arange(0, REST_BLOCK)[None, :] < REST, rest - mean, 0.0)
        square = tl.zeros_like(heads).to(tl.float32)
        if HALF:
            square += tl.sum(a * a + b * b, 1, keep_dims=True)
        if REST:
            square += tl.sum(rest * rest, 1, keep_dims=True)
        scale = tl.rsqrt(square / size + eps)
        if HALF:
            a = _scaled_part(
                a, scale, weight, bias, heads, is_head, weight_head, 0, HALF, HALF_BLOCK, WEIGHT, BIAS
            )  # fmt: skip
            b = _scaled_part(
                b, scale, weight, bias, heads, is_head, weight_head, HALF, HALF, HALF_BLOCK, WEIGHT, BIAS
            )  # fmt: skip
        if REST:
            rest = _scaled_part(
                rest, scale, weight, bias, heads, is_head, weight_head, 2 * HALF, REST, REST_BLOCK, WEIGHT, BIAS
            )  # fmt: skip
    if HALF:
        at = tl.arange(0, HALF_BLOCK)[None, :]
        c = tl.load(cos + angle + at, mask=at < HALF, other=0.0)
        s = tl.load(sin + angle + at, mask=at < HALF, other=0.0)
        _store_part(out, (a * c - b * s) * factor, heads, writes, out_head, 0, HALF, HALF_BLOCK)
        _store_part(out, (b * c + a * s) * factor, heads, writes, out_head, HALF, HALF, HALF_BLOCK)
    if REST:
        _store_part(out, rest * factor, heads, writes, out_head, 2 * HALF, REST, REST_BLOCK)


@triton.jit
def rope_write_kernel(
    q,  # [T, H, D]
    k,  # [T, K, D]
    v,  # [T, K, value_dim]
    q_out,  # [T, H, D]
    keys,  # [blocks, K, P, D]
    values,  # [blocks, K, P, value_dim]
    slots,  # [T] int64; no key or value is written for a slot below 0. None: row t has block t
    cos,  # [T, HALF] fp32, contiguous, as sin
    sin,
    q_scale,  # [T] fp32, or None
    q_weight,  # [D] fp32, or [H, D]
    k_weight,
    q_bias,
    k_bias,
    key_scales,  # [blocks, K, P] bf16, of codes; or None, as value_scales and center
    value_scales,
    center,  # [K, D] fp32
    q_row,  # strides
    q_head,
    k_row,
    k_head,
    v_row,
    v_head,
    out_row,
    out_head,
    keys_block,
    keys_head,
    keys_slot,
    values_block,
    values_head,
    values_slot,
    scales_block,
    scales_head,
    weight_head,
    eps,
    Q_HEADS: tl.constexpr,
    K_HEADS: tl.constexpr,
    V_HEADS: tl.constexpr,
    P: tl.constexpr,
    NORM: tl.constexpr,
    WEIGHT: tl.constexpr,
    BIAS: tl.constexpr,
    HALF: tl.constexpr,
    REST: tl.constexpr,
    VALUE: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    REST_BLOCK: tl.constexpr,
    VALUE_BLOCK: tl.constexpr,
    HEADS: tl.constexpr,
    CODE: tl.constexpr,
    LOG_N: tl.constexpr,
    FACTOR: tl.constexpr,
    KEY_BLOCK: tl.constexpr,
):
    """Grid: (T, tiles of HEADS query heads, then of key heads, then of value heads)."""
    q_tiles: tl.constexpr = (Q_HEADS + HEADS - 1) // HEADS
    k_tiles: tl.constexpr = (K_HEADS + HEADS - 1) // HEADS
    row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    lane = tl.arange(0, HEADS)[:, None]
    if tile < q_tiles:
        heads = tile * HEADS + lane
        is_head = heads < Q_HEADS
        factor = 1.0
        if q_scale is not None:
            factor = tl.load(q_scale + row)
        if Q_HEADS:
            _rotated(
                q + row * q_row, q_head, q_weight, weight_head, q_bias, eps, cos, sin, row * HALF, factor,
                q_out + row * out_row, out_head, heads, is_head, is_head,
                NORM, WEIGHT, BIAS, HALF, REST, HALF_BLOCK, REST_BLOCK,
            )  # fmt: skip
    else:
        slot = row
        if slots is not None:
            slot = tl.load(slots + row).to(tl.int64)
        block, offset = slot // P, slot % P
        is_kept = slot + lane * 0 >= 0
        if tile < q_tiles + k_tiles:
            heads = (tile - q_tiles) * HEADS + lane
            is_head = heads < K_HEADS
            target = keys + block * keys_block + offset * keys_slot
            if CODE:
                write_key_codes(
                    k + row * k_row, k_head, k_weight, weight_head, k_bias, eps, cos, sin, row * HALF,
                    center, target, keys_head, key_scales + block * scales_block + offset, scales_head,
                    heads, is_head, is_kept, NORM, WEIGHT, BIAS, HALF, 2 * HALF + REST, KEY_BLOCK, CODE, LOG_N, FACTOR,
                )  # fmt: skip
            else:
                _rotated(
                    k + row * k_row, k_head, k_weight, weight_head, k_bias, eps, cos, sin, row * HALF, 1.0,
                    target, keys_head, heads, is_head, is_head & is_kept,
                    NORM, WEIGHT, BIAS, HALF, REST, HALF_BLOCK, REST_BLOCK,
                )  # fmt: skip
        elif V_HEADS:
            heads = (tile - q_tiles - k_tiles) * HEADS + lane
            is_head = heads < V_HEADS
            target = values + block * values_block + offset * values_slot
            if CODE:
                write_value_codes(
                    v + row * v_row, v_head, target, values_head, value_scales + block * scales_block + offset,
                    scales_head, heads, is_head, is_kept, VALUE, VALUE_BLOCK, CODE,
                )  # fmt: skip
            else:
                numbers = _part(v + row * v_row, heads, is_head, v_head, 0, VALUE, VALUE_BLOCK)
                _store_part(target, numbers, heads, is_head & is_kept, values_head, 0, VALUE, VALUE_BLOCK)


def rope_write(
    q: torch.Tensor | None,
    k: torch.Tensor,
    v: torch.Tensor | None,
    keys: torch.Tensor,
    values: torch.Tensor | None,
    slots: torch.Tensor | None,
    angles: tuple[torch.Tensor, torch.Tensor] | None = None,
    q_scale: torch.Tensor | None = None,
    norms: tuple[RowInput, RowInput] | None = None,
    coded: CodedCache | None = None,
) -> torch.Tensor | None:
    """Norm and rotate heads q [T, H, D] and k [T, K, D], and write k and v [T, K, value_dim] to the KV cache.

    Returns the new q, contiguous, scaled by q_scale [T]. keys, values: the cache, [blocks, K, P, D] and [blocks, K, P,
    value_dim], with any strides but 1 in the last dimension. slots: [T], the rows' slots; a row with a slot below 0 is
    not written. None: row t is written to offset 0 of block t. angles: cos and sin, [T, R] fp32 each, with 2 R <= D;
    None: no rotation. norms: of the heads of q and k, of one kind, with weights [D] or [heads, D]. v, values: None if
    values are a part of the keys, or not written. coded: if keys and values are codes, uint8, where their scales are.
    """
    num_rows, k_heads, size = k.shape
    q_heads, out = 0, None
    if q is not None:
        q_heads, out = q.shape[1], torch.empty(q.shape, dtype=q.dtype, device=q.device)
    half = 0 if angles is None else angles[0].shape[1]
    cos, sin = (None, None) if angles is None else angles
    rest = size - 2 * half
    assert rest >= 0
    assert k.stride(2) == keys.stride(3) == 1
    assert keys.shape[1:] == (k_heads, keys.shape[2], size)
    assert cos is None or (cos.is_contiguous() and sin is not None and sin.is_contiguous())
    v_heads, value_dim = (0, 1) if v is None else v.shape[1:]
    q_norm, k_norm = (None, None) if norms is None else norms
    weights = [norm.weight if norm is not None and norm.has_weight else None for norm in (q_norm, k_norm)]
    biases = [None if norm is None else norm.bias for norm in (q_norm, k_norm)]
    half_block, rest_block, value_block = (triton.next_power_of_2(max(part, 1)) for part in (half, rest, value_dim))
    key_block = triton.next_power_of_2(size)
    widest = _HEADS * max(half_block, rest_block, value_block // 2)  # numbers that are loaded together
    code, scales = (0, (None, None, None)) if coded is None else (coded.code, (*coded[1:3], coded.key_center))
    scale_strides = (0, 0) if coded is None else coded.key_scales.stride()[:2]
    spread = size & -size if coded is not None and coded.is_spread else 1
    tiles = sum(triton.cdiv(heads, _HEADS) for heads in (q_heads, k_heads, v_heads))
    launch(
        rope_write_kernel,
        (num_rows, tiles),
        *(q, k, v, out, keys, values, slots, cos, sin, q_scale, *weights, *biases, *scales),
        *(*_strides(q), *_strides(k), *_strides(v), *_strides(out)),
        *((keys.stride(0), keys.stride(1), keys.stride(2))),
        *((0, 0, 0) if values is None else (values.stride(0), values.stride(1), values.stride(2))),
        *scale_strides,
        size if weights[0] is not None and weights[0].dim() == 2 else 0,
        0.0 if q_norm is None else q_norm.eps,
        Q_HEADS=q_heads,
        K_HEADS=k_heads,
        V_HEADS=v_heads,
        P=keys.shape[2],
        NORM=0 if q_norm is None else int(q_norm.kind),
        WEIGHT=weights[0] is not None,
        BIAS=biases[0] is not None,
        HALF=half,
        REST=rest,
        VALUE=value_dim,
        HALF_BLOCK=half_block,
        REST_BLOCK=rest_block,
        VALUE_BLOCK=value_block,
        HEADS=_HEADS,
        CODE=code,
        LOG_N=spread.bit_length() - 1,
        FACTOR=1.0 / math.sqrt(spread),
        KEY_BLOCK=key_block,
        num_warps=min(max(widest // (32 * _NUMBERS_PER_THREAD), 1), 4),
    )
    return out


def _strides(x: torch.Tensor | None) -> tuple[int, int]:
    """Return the strides of rows and heads."""
    if x is None:
        return 0, 0
    assert x.stride(2) == 1
    return x.stride(0), x.stride(1)
