"""Codes of quantized keys and values: written by `rope_write`, and read by attention.

`models/attention/kv_codes.py` defines codes and scales in torch. A code is a byte: a whole number, or an 8-bit float,
which is taken apart here since compute capability 8.0 has no such type. Its subnormal numbers are not used.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from models.kernels.row_input import InputKind

_RMS_NORM = tl.constexpr(int(InputKind.RMS_NORM))
_INT8 = tl.constexpr(1)  # KV_CODES of attend_shape.py
_E4M3 = tl.constexpr(2)
_SMALLEST_SCALE = tl.constexpr(1e-30)
_ROUND = tl.constexpr(12582912.0)  # 1.5 * 2^23: numbers from there on are whole


class CodedCache(NamedTuple):
    """Where `rope_write` puts codes. code: of KV_CODES. scales: [tiles, heads, 16] bf16 each.

    key_center: [K, D] fp32, contiguous, subtracted from keys; or None. is_spread: whether keys are multiplied by the
    Hadamard matrix.
    """

    code: int
    key_scales: torch.Tensor
    value_scales: torch.Tensor | None
    key_center: torch.Tensor | None
    is_spread: bool


@triton.jit
def code_numbers(codes, CODE: tl.constexpr):
    """Return the fp32 numbers of bytes of codes."""
    bits = codes.to(tl.int32)
    if CODE == _INT8:
        numbers = codes.to(tl.int8, bitcast=True).to(tl.float32)
    elif CODE == _E4M3:  # exponent and mantissa at the low end of fp32's, whose exponent is larger by 120
        numbers = ((bits & 127) << 20 | (bits & 128) << 24).to(tl.float32, bitcast=True) * 1.329227995784916e36
    else:  # larger by 112
        numbers = ((bits & 127) << 21 | (bits & 128) << 24).to(tl.float32, bitcast=True) * 5.192296858534828e33
    return numbers


@triton.jit
def hadamard_signs(COLUMNS: tl.constexpr, N: tl.constexpr):
    """Return the signs of the Hadamard matrix for each N of the columns: [COLUMNS, COLUMNS], 0 between others."""
    i, j = tl.arange(0, COLUMNS)[:, None], tl.arange(0, COLUMNS)[None, :]
    bits = i & j & (N - 1)
    bits ^= bits >> 4
    bits ^= bits >> 2
    bits ^= bits >> 1
    return tl.where(i // N == j // N, 1.0 - 2.0 * (bits & 1).to(tl.float32), 0.0)


@triton.jit
def _spread(x, LOG_N: tl.constexpr, FACTOR: tl.constexpr):
    """Multiply each 2^LOG_N columns of x by the Hadamard matrix, and then by a factor."""
    for stage in tl.static_range(LOG_N):
        pairs = tl.reshape(x, [x.shape[0], x.shape[1] // (2 << stage), 2, 1 << stage])
        first, second = tl.split(tl.permute(pairs, [0, 1, 3, 2]))
        sums = tl.permute(tl.join(first + second, first - second), [0, 1, 3, 2])
        x = tl.reshape(sums, [x.shape[0], x.shape[1]])
    return x * FACTOR


@triton.jit
def _rounded(x, BITS: tl.constexpr):
    """Round fp32 numbers to BITS bits of mantissa, halves to even."""
    dropped: tl.constexpr = 23 - BITS
    bits = x.to(tl.int32, bitcast=True)
    bits += (1 << (dropped - 1)) - 1 + (bits >> dropped & 1)
    return (bits & -(1 << dropped)).to(tl.float32, bitcast=True)


@triton.jit
def _scaled(x, scale, CODE: tl.constexpr):
    """Return scales as bf16 holds them, x over the scales, and the nearest numbers of codes."""
    scale = _rounded(scale, 7)
    scale = tl.where(scale < _SMALLEST_SCALE, 0.0, scale)
    scaled = x * tl.where(scale == 0.0, 0.0, 1.0 / tl.where(scale == 0.0, 1.0, scale))
    if CODE == _INT8:
        numbers = tl.minimum(tl.maximum(scaled, -127.0), 127.0) + _ROUND - _ROUND
    else:
        mantissa: tl.constexpr = 3 if CODE == _E4M3 else 2
        smallest: tl.constexpr = 2.0**-6 if CODE == _E4M3 else 2.0**-14
        largest: tl.constexpr = 448.0 if CODE == _E4M3 else 57344.0
        numbers = tl.minimum(tl.maximum(scaled, -largest), largest)
        numbers = _rounded(tl.where(tl.abs(numbers) < smallest, 0.0, numbers), mantissa)
    return scale, scaled, numbers


@triton.jit
def _store(x, codes, scales, is_inside, is_written, CODE: tl.constexpr, IS_KEY: tl.constexpr):
    """Store the codes and scales of heads x [heads, BLOCK], fp32. codes: [heads, BLOCK], addresses. scales: [heads, 1].

    A key in 8-bit floats has the one of four scales with the least squared error, the first of equal ones.
    """
    largest: tl.constexpr = 127.0 if CODE == _INT8 else (448.0 if CODE == _E4M3 else 57344.0)
    size = tl.max(tl.abs(x), 1, keep_dims=True)
    if IS_KEY and CODE != _INT8:
        units: tl.constexpr = (
            64.0 if CODE == _E4M3 else 0.25
        )  # 2^10 to the widest step of codes from 4/7 of the largest on
        least = tl.full(size.shape, float("inf"), tl.float32)
        scale = tl.zeros_like(size)
        numbers = tl.zeros_like(x)
        for quarters in tl.static_range(7, 3, -1):
            new_scale, scaled, new_numbers = _scaled(x, size / (largest / 7 * quarters), CODE)
            steps = ((scaled - new_numbers) * units + _ROUND - _ROUND).to(tl.int32)
            error = tl.sum(steps * steps, 1, keep_dims=True).to(tl.float32) * (1.0 / (quarters * quarters))
            is_better = error < least
            least = tl.where(is_better, error, least)
            scale = tl.where(is_better, new_scale, scale)
            numbers = tl.where(is_better, new_numbers, numbers)
    else:
        scale, _, numbers = _scaled(x, size / largest, CODE)
    if CODE == _INT8:
        bits = numbers.to(tl.int32)
    else:
        at: tl.constexpr = 20 if CODE == _E4M3 else 21
        bias: tl.constexpr = 120 << 3 if CODE == _E4M3 else 112 << 2
        bits = numbers.to(tl.int32, bitcast=True)
        bits = tl.where(numbers == 0.0, 0, ((bits >> at & (1 << 31 - at) - 1) - bias) | (bits >> 24 & 128))
    tl.store(codes, (bits & 255).to(tl.uint8), mask=is_inside & is_written)
    scale += tl.sum(x * 0.0, 1, keep_dims=True)  # NaN if x has a number that is not finite: the largest may ignore it
    tl.store(scales, scale.to(tl.bfloat16), mask=is_written)


@triton.jit
def _normed(x, scale, weight, bias, at, mask, WEIGHT: tl.constexpr, BIAS: tl.constexpr):
    x *= scale
    if WEIGHT:
        x *= tl.load(weight + at, mask=mask, other=0.0).to(tl.float32)
    if BIAS:
        x += tl.load(bias + at, mask=mask, other=0.0).to(tl.float32)
    return x


@triton.jit
def write_key_codes(
    x, x_head, weight, weight_head, bias, eps, cos, sin, angle, center, codes, codes_head, scales, scales_head,
    heads, is_head, is_written, NORM: tl.constexpr, WEIGHT: tl.constexpr, BIAS: tl.constexpr, HALF: tl.constexpr,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, CODE: tl.constexpr, LOG_N: tl.constexpr, FACTOR: tl.constexpr,
):  # fmt: skip
    """Norm, rotate and quantize some key heads of a row. angle: of the row. LOG_N: 0, or of the spread.

    Each number is loaded beside the one that it is rotated with, so that a head stays one tile, which `_spread` needs.
    """
    at = tl.arange(0, BLOCK)[None, :]
    other = tl.where(at < HALF, at + HALF, tl.where(at < 2 * HALF, at - HALF, at))
    is_inside = at < SIZE
    mask = is_head & is_inside
    y = tl.load(x + heads * x_head + at, mask=mask, other=0.0).to(tl.float32)
    z = tl.load(x + heads * x_head + other, mask=mask, other=0.0).to(tl.float32)
    if NORM:
        if NORM != _RMS_NORM:
            mean = tl.sum(y, 1, keep_dims=True) / SIZE
            y, z = tl.where(is_inside, y - mean, 0.0), z - mean
        factor = tl.rsqrt(tl.sum(y * y, 1, keep_dims=True) / SIZE + eps)
        y = _normed(y, factor, weight + heads * weight_head, bias, at, mask, WEIGHT, BIAS)
        z = _normed(z, factor, weight + heads * weight_head, bias, other, mask, WEIGHT, BIAS)
    if HALF:
        pair, is_rotated = angle + tl.where(at < HALF, at, at - HALF), at < 2 * HALF
        c = tl.load(cos + pair, mask=is_rotated, other=1.0)
        s = tl.load(sin + pair, mask=is_rotated, other=0.0)
        y = y * c + tl.where(at < HALF, -z, z) * s
    if center is not None:
        y -= tl.load(center + heads * SIZE + at, mask=mask, other=0.0)
    if LOG_N:
        y = _spread(y, LOG_N, FACTOR)
    _store(
        y, codes + heads * codes_head + at, scales + heads * scales_head, is_inside, is_head & is_written, CODE, True
    )  # fmt: skip


@triton.jit
def write_value_codes(
    x, x_head, codes, codes_head, scales, scales_head, heads, is_head, is_written,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, CODE: tl.constexpr,
):  # fmt: skip
    """Quantize some value heads of a row."""
    at = tl.arange(0, BLOCK)[None, :]
    y = tl.load(x + heads * x_head + at, mask=is_head & (at < SIZE), other=0.0).to(tl.float32)
    _store(
        y, codes + heads * codes_head + at, scales + heads * scales_head, at < SIZE, is_head & is_written, CODE, False
    )  # fmt: skip
