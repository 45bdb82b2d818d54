"""Codes of quantized keys and values: their definition in torch, and the layers that take none."""

import math
from typing import NamedTuple

import torch

from models.architecture.attention import AttentionSpec
from models.architecture.kv_layout import CODE_DTYPES, LARGEST_CODES, SCALE_DTYPE, STEP_NUMBERS

_SMALLEST_SCALE = 1e-30  # its inverse is finite; a head of smaller numbers is stored as zeros
_MAX_STEP = 8  # of int4 keys, in scales


def quantized_kv_refusal(spec: AttentionSpec, kv_dtype: torch.dtype) -> str | None:
    """Return why no back end quantizes the keys and values of a layer to `kv_dtype`; None if it is possible, or if
    `kv_dtype` has no codes."""
    if kv_dtype not in CODE_DTYPES:
        return None
    if spec.indexer is not None or spec.reuses_choice:
        return "keeps no codes of keys from which an indexer chooses, since their rounding would change the choice"
    if kv_dtype == torch.int4 or has_spread_keys(kv_dtype, has_values=spec.values_from is None):
        for size in (spec.head_dim, spec.value_dim):
            if size % 16:
                return (
                    f"keeps whole-number codes of heads with a multiple of 16 numbers, not {size} (8-bit floats: any)"
                )
    return None


def has_spread_keys(code_dtype: torch.dtype | None, *, has_values: bool) -> bool:
    """Whether keys are multiplied by `hadamard_heads` before they become codes, and queries before their products with
    them. has_values: whether values are stored beside the keys; keys that values are a part of stay as they are.

    8-bit floats lose by it, since each of their numbers has an error in proportion to its own size.
    """
    return code_dtype in (torch.int8, torch.int4) and has_values


def has_spread_values(code_dtype: torch.dtype | None, *, has_values: bool) -> bool:
    """Whether values are multiplied by `hadamard_heads`, too, and so are the sums of values, which undoes it."""
    return code_dtype == torch.int4 and has_values


def hadamard_heads(x: torch.Tensor) -> torch.Tensor:
    """Return x [..., D] in fp32, with each block of n numbers of a head multiplied by the Hadamard matrix over sqrt(n).

    n is the largest power of two that divides D, a multiple of 16. The matrix is orthogonal, so products of queries and
    keys that are both multiplied by it stay as they are. A key's few large channels, which would set its scale, are
    spread over all of its numbers (QuaRot, arXiv:2404.00456). The sums have the order of the C++ kernels'.
    """
    size = x.shape[-1]
    n = size & -size
    signs = torch.tensor(
        [[-1.0 if (i & j).bit_count() % 2 else 1.0 for j in range(16)] for i in range(16)], device=x.device
    )
    pieces = x.to(torch.float32).unflatten(-1, (-1, 16))
    total = pieces[..., :1] * signs[0]
    for i in range(1, 16):
        total = total + pieces[..., i : i + 1] * signs[i]
    half = 1  # pieces of 16
    while 16 * half < n:
        first, second = total.unflatten(-2, (-1, 2, half)).unbind(-3)
        total = torch.stack((first + second, first - second), dim=-3).flatten(-4, -2)
        half *= 2
    return total.flatten(-2) * (1.0 / math.sqrt(n))


class Codes(NamedTuple):
    """Heads as codes: x [T, K, D] ~ codes * scales [T, K, 1]. steps: of int4 keys, [T, K, D / 16] uint8.

    Codes of int4 are uint8, [T, K, D / 2]: the high four bits belong to a head's second half.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    steps: torch.Tensor | None = None

    def numbers(self) -> torch.Tensor:
        """Return the codes as numbers in fp32, before the scales."""
        if self.codes.dtype != torch.uint8:
            return self.codes.to(torch.float32)
        units = torch.cat((self.codes & 15, self.codes >> 4), dim=-1).to(torch.float32)
        if self.steps is None:
            return units - 8
        steps = torch.stack((self.steps & 15, self.steps >> 4), dim=-1).flatten(-2).to(torch.float32).unsqueeze(-1)
        zero = torch.where(steps < 8, 8.0, 7.0)
        return ((units.unflatten(-1, (-1, STEP_NUMBERS)) - zero) * (steps % 8 + 1)).flatten(-2)


def quantize_heads(x: torch.Tensor, dtype: torch.dtype, *, is_key: bool = False) -> Codes:
    """Return the codes of x [T, K, D] in a dtype of CODE_DTYPES, and a scale for each head.

    A head with a NaN or an infinite number has a scale that is not finite. The subnormal numbers of 8-bit floats are
    not used: they are below 4e-5 of a head's largest number, and kernels would need longer to read them.
    """
    x = x.to(torch.float32)
    if dtype == torch.int4:
        return _int4_keys(x) if is_key else _int4_values(x)
    largest = LARGEST_CODES[dtype]
    amax = x.abs().amax(dim=-1, keepdim=True)
    if is_key and dtype.is_floating_point:
        return _float_keys(x, amax, dtype)
    scales = _rounded_scales(amax / largest)
    scaled = (x * _inverse(scales)).clamp(-largest, largest)  # the scale was rounded, too
    scaled = _as_codes(scaled, dtype) if dtype.is_floating_point else scaled.round()
    return Codes(scaled.to(dtype), scales.to(SCALE_DTYPE))


def _float_keys(x: torch.Tensor, amax: torch.Tensor, dtype: torch.dtype) -> Codes:
    """Return codes with the one of four scales that has the least squared error, the first of equal ones.

    The largest number becomes 7, 6, 5 or 4 quarters of a power of two. Errors are rounded to at most 2^10 units of the
    code 1, so that sums are exact, and the choice is the kernels'.
    """
    largest = LARGEST_CODES[dtype]
    units = 2.0**10 / (torch.finfo(dtype).eps * largest / 3.5)
    best = None
    for quarters in (7, 6, 5, 4):
        scales = _rounded_scales(amax / (largest / 7 * quarters))
        scaled = x * _inverse(scales)
        codes = _as_codes(scaled.clamp(-largest, largest), dtype)
        squares = ((scaled - codes) * units).round().to(torch.int32).square().sum(dim=-1, keepdim=True)
        errors = squares.to(torch.float32) * (1.0 / quarters**2)
        if best is None:
            best = errors, scales, codes
            continue
        is_better = errors < best[0]
        best = tuple(torch.where(is_better, new, old) for new, old in zip((errors, scales, codes), best, strict=True))
    assert best is not None
    return Codes(best[2].to(dtype), best[1].to(SCALE_DTYPE))


def _as_codes(scaled: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the nearest 8-bit floats in fp32; 0 in place of subnormal ones."""
    scaled = torch.where(scaled.abs() < torch.finfo(dtype).smallest_normal, 0.0, scaled)
    return scaled.to(dtype).to(torch.float32)


def _int4_values(x: torch.Tensor) -> Codes:
    """Return codes from -8 to 7, and scales with the sign that makes the number with the largest size -8."""
    scales = _rounded_scales(x.abs().amax(dim=-1, keepdim=True) / 8)
    scales = torch.where(_is_lowest_largest(x), scales, -scales)
    units = (x * _inverse(scales)).clamp(-8, 7).round() + 8
    return Codes(_packed(units), scales.to(SCALE_DTYPE))


def _int4_keys(x: torch.Tensor) -> Codes:
    """Return codes whose steps, one for STEP_NUMBERS numbers, are 1 to 8 scales.

    A step's code is its size less 1. 8 is added to it if codes reach from -7 to 8 steps, and not from -8 to 7.
    """
    scales = _rounded_scales(x.abs().amax(dim=-1, keepdim=True) / 64)
    parts = x.unflatten(-1, (-1, STEP_NUMBERS))
    largest = parts.abs().amax(dim=-1, keepdim=True) * _inverse(scales * 8).unsqueeze(-1)
    steps = torch.where(largest > 1, largest, 1.0).clamp(max=_MAX_STEP).ceil()
    zero = torch.where(_is_lowest_largest(parts), 8.0, 7.0)
    units = parts * _inverse(scales.unsqueeze(-1) * steps)
    units = torch.minimum(torch.maximum(units, -zero), 15 - zero).round() + zero
    codes = (steps - 1 + torch.where(zero == 7, 8.0, 0.0)).to(torch.uint8).squeeze(-1)
    return Codes(_packed(units.flatten(-2)), scales.to(SCALE_DTYPE), codes[..., 0::2] | codes[..., 1::2] << 4)


def _rounded_scales(scales: torch.Tensor) -> torch.Tensor:
    scales = scales.to(SCALE_DTYPE).to(torch.float32)
    return torch.where(scales < _SMALLEST_SCALE, 0.0, scales)


def _inverse(scales: torch.Tensor) -> torch.Tensor:
    return torch.where(scales == 0, 0.0, 1.0 / scales)


def _is_lowest_largest(x: torch.Tensor) -> torch.Tensor:
    """Whether no number is larger in size than the lowest one, over the last dimension."""
    return -x.amin(dim=-1, keepdim=True) >= x.amax(dim=-1, keepdim=True)


def _packed(units: torch.Tensor) -> torch.Tensor:
    """Pack numbers from 0 to 15, [..., D], two to a byte."""
    low, high = units.to(torch.uint8).chunk(2, dim=-1)
    return low | high << 4
