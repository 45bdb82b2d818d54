"""Round-to-nearest quantization of a matrix, with a search for each group's scale."""

import torch

from models.quant.activations import FP8_MAX, INT8_MAX
from models.quant.dequantize import TABLES
from models.quant.nibbles import pack_nibbles
from models.quant.scaled_weight import quantize_natively
from models.quant.tensor import Encoding, QuantKind, QuantTensor

# Columns that share a scale in matrices made by --quantization; None: one scale per row.
GROUP_SIZES = {Encoding.INT4: 32, Encoding.INT8: None, Encoding.FP8_E4M3: None, Encoding.NF4: 64, Encoding.FP4: 64}
_CHUNK_ELEMENTS = 1 << 17  # quantized at a time: bounds the temporaries, and keeps them in the caches
# Candidates of a symmetric scale, as the negated code that a group's extreme would get; beyond 8 it is clipped.
_EXTREME_CODES = (7.0, 7.5, 8.0, 8.5, 9.0, 9.75, 10.5)  # as in kernels/cpu/src/scaled/quantize.cpp
_SMALLEST_DIVISOR = 1e-36  # its inverse is finite; groups of smaller numbers become zeros
_SHRINKING = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7)  # candidates of an asymmetric range, relative to maximum - minimum


def kind_on_load(encoding: Encoding, columns: int, group_size: int | None = None) -> QuantKind:
    """Return the kind of matrix that `quantize_matrix` makes with this group size."""
    return QuantKind(encoding, min(group_size or GROUP_SIZES[encoding] or columns, columns))


def quantize_matrix(
    weight: torch.Tensor, encoding: Encoding, group_size: int | None = None, symmetric: bool = True
) -> QuantTensor:
    """Quantize `weight` [rows, columns], of any float type on any device, by rounding to nearest.

    group_size: columns that share a scale, by default from GROUP_SIZES; the last group may be smaller. Scales of 8-bit
    codes are fp32. Scales of 4-bit codes are bf16, which costs nothing measurable (codes are chosen for the stored
    scale) and has the range of weights, where fp16 ends at 6e-8. Scales of INT4 minimize the group's squared error; the
    others map its largest number to the largest code. symmetric: without zero points, which only INT4 can have.
    """
    rows, columns = weight.shape
    assert symmetric or encoding is Encoding.INT4, f"{encoding.name} has no zero points"
    size = group_size or GROUP_SIZES[encoding] or columns
    size = min(size, columns)
    if symmetric and (quantized := quantize_natively(weight, encoding, size)) is not None:
        return quantized
    step = max(1, _CHUNK_ELEMENTS // columns)
    parts = [_quantized_rows(weight[row : row + step], encoding, size, symmetric) for row in range(0, rows, step)]
    codes, scales, zeros = zip(*parts, strict=True)
    return QuantTensor(
        encoding,
        torch.cat(codes),
        torch.cat(scales),
        None if symmetric else torch.cat(zeros),
        group_size=size,
    )


def _quantized_rows(
    weight: torch.Tensor, encoding: Encoding, size: int, symmetric: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Return codes, scales and zeros of some rows."""
    rows, columns = weight.shape
    groups = torch.nn.functional.pad(weight.to(torch.float32), (0, -columns % size)).view(rows, -1, size)
    zeros = None
    match encoding:
        case Encoding.INT4 if symmetric:
            codes, scales = _symmetric_int4(groups)
        case Encoding.INT4:
            codes, scales, zeros = _asymmetric_int4(groups)
        case Encoding.INT8:
            scales = groups.abs().amax(-1, keepdim=True) / INT8_MAX
            codes = (groups / divisor(scales)).round_().clamp_(-INT8_MAX, INT8_MAX).to(torch.int8)
        case Encoding.FP8_E4M3:
            scales = groups.abs().amax(-1, keepdim=True) / FP8_MAX
            codes = (groups / divisor(scales)).clamp_(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
        case Encoding.NF4 | Encoding.FP4:
            codes, scales = _nearest_of_table(groups, encoding)
        case _:
            raise AssertionError(f"weights are not quantized to {encoding.name}")
    flat = codes.flatten(1)[:, :columns]
    flat = flat.contiguous() if encoding in (Encoding.INT8, Encoding.FP8_E4M3) else pack_nibbles(flat)
    return flat, scales.squeeze(-1), zeros


def _symmetric_int4(groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return codes 0..15 about a zero point of 8, and scales."""
    scales = _rounded_scales(fitted_scales(groups))
    codes = (groups / divisor(scales)).round_().clamp_(-8, 7).add_(8).to(torch.uint8)
    return codes, scales


def fitted_scales(groups: torch.Tensor, importance: torch.Tensor | None = None) -> torch.Tensor:
    """Return scales [rows, groups, 1] for codes -8..7 of groups [rows, groups, columns] fp32.

    Of several clippings, the one with the least squared error is chosen, where each column counts by its `importance`
    [groups, columns]. With codes q fixed, the best scale is sum(xq) / sum(qq), and its error is
    sum(xx) - sum(xq)^2 / sum(qq).
    """
    high, low = groups.amax(-1, keepdim=True), groups.amin(-1, keepdim=True)
    extremes = torch.where(high > -low, high, low)
    shares = groups / divisor(extremes)  # of the extreme, so that squares of small numbers do not vanish
    best_gain = torch.zeros_like(extremes)
    scales = torch.zeros_like(extremes)
    for code in _EXTREME_CODES:
        q = (shares * -code).round_().clamp_(-8, 7)
        counted = q if importance is None else q * importance
        products, squares = (shares * counted).sum(-1, keepdim=True), (q * counted).sum(-1, keepdim=True)
        fitted = products / torch.where(squares == 0, 1.0, squares)
        gain = products * fitted
        scales = torch.where(gain > best_gain, fitted, scales)
        best_gain = torch.maximum(gain, best_gain)
    return scales * extremes


def _asymmetric_int4(groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return codes 0..15, scales and zero points 0..15 with the least squared error over several ranges."""
    low = groups.amin(-1, keepdim=True).clamp_max(0.0)  # zero stays representable
    high = groups.amax(-1, keepdim=True).clamp_min(0.0)
    best = torch.full_like(low, torch.inf)
    codes, scales, zeros = torch.zeros_like(groups), torch.zeros_like(low), torch.zeros_like(low)
    for factor in _SHRINKING:
        scale = _rounded_scales((high - low) * (factor / 15))
        zero = (-low * factor / divisor(scale)).round_().clamp_(0, 15)
        q = (groups / divisor(scale)).round_().add_(zero).clamp_(0, 15)
        error = ((q - zero) * scale - groups).square_().sum(-1, keepdim=True)
        is_better = error < best
        best = torch.where(is_better, error, best)
        scales, zeros = torch.where(is_better, scale, scales), torch.where(is_better, zero, zeros)
        codes = torch.where(is_better, q, codes)
    return codes.to(torch.uint8), scales.to(torch.bfloat16), zeros.squeeze(-1).to(torch.uint8)


def _nearest_of_table(groups: torch.Tensor, encoding: Encoding) -> tuple[torch.Tensor, torch.Tensor]:
    table = torch.tensor(TABLES[encoding], device=groups.device)
    ordered, order = table.sort()
    scales = _rounded_scales(groups.abs().amax(-1, keepdim=True))
    nearest = torch.bucketize(groups / divisor(scales), (ordered[1:] + ordered[:-1]) / 2)
    return order[nearest].to(torch.uint8), scales


def _rounded_scales(scales: torch.Tensor) -> torch.Tensor:
    """Round scales to bf16, as stored, so that codes are chosen for the stored scale."""
    return scales.to(torch.bfloat16)


def divisor(scales: torch.Tensor) -> torch.Tensor:
    """Return the scales in fp32, with 1 in place of scales that are too small to divide by."""
    wide = scales.to(torch.float32)
    return torch.where(wide.abs() < _SMALLEST_DIVISOR, 1.0, wide)
