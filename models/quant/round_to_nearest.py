"""Round-to-nearest quantization of a matrix, with a search for each group's scale."""

import torch

from models.quant.activations import FP8_MAX, INT8_MAX, largest_code
from models.quant.dequantize import TABLES
from models.quant.nibbles import pack_nibbles
from models.quant.scaled_weight import quantize_natively
from models.quant.tensor import WIDE_ENCODINGS, Encoding, QuantKind, QuantTensor

# Columns that share a scale in matrices made by --quantization; None: one scale per row.
GROUP_SIZES = {Encoding.INT4: 32, Encoding.INT8: None, Encoding.FP8_E4M3: None, Encoding.NF4: 64, Encoding.FP4: 64}
_CHUNK_ELEMENTS = 1 << 17  # quantized at a time: bounds the temporaries, and keeps them in the caches
# Candidates of a symmetric scale, as the negated code that a group's extreme would get; beyond 8 it is clipped.
_EXTREME_CODES = (7.0, 7.5, 8.0, 8.5, 9.0, 9.75, 10.5)  # as in kernels/cpu/src/scaled/quantize.cpp
_SMALLEST_DIVISOR = 1e-36  # its inverse is finite; groups of smaller numbers become zeros
_LEVELS = {Encoding.INT4: (-8.0, 7.0), Encoding.INT8: (-INT8_MAX, INT8_MAX)}


def kind_on_load(encoding: Encoding, columns: int, group_size: int | None = None) -> QuantKind:
    """Return the QuantKind of matrices that `quantize_matrix` makes with this group size."""
    return QuantKind(encoding, min(group_size or GROUP_SIZES[encoding] or columns, columns))


def quantize_matrix(weight: torch.Tensor, encoding: Encoding, group_size: int | None = None) -> QuantTensor:
    """Quantize `weight` [rows, columns], of any float type and device, by round-to-nearest without zero points.

    group_size: columns that share a scale, by default from GROUP_SIZES; the last group may be smaller. Scales of 8-bit
    codes are fp32. Scales of 4-bit codes are bf16, which costs nothing measurable (codes are chosen for the stored
    scale) and has the range of weights, where fp16 ends at 6e-8. Scales of INT4 minimize the group's squared error;
    scales of other encodings map the group's largest number to the largest code.
    """
    columns = weight.shape[1]
    size = kind_on_load(encoding, columns, group_size).group_size
    if (quantized := quantize_natively(weight, encoding, size)) is not None:
        return quantized
    parts = [_quantized_rows(part, encoding, size) for part in weight.split(max(1, _CHUNK_ELEMENTS // columns))]
    codes, scales = zip(*parts, strict=True)
    return QuantTensor(encoding, torch.cat(codes), torch.cat(scales), None, group_size=size)


def _quantized_rows(weight: torch.Tensor, encoding: Encoding, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows, columns = weight.shape
    groups = torch.nn.functional.pad(weight.to(torch.float32), (0, -columns % size)).view(rows, -1, size)
    if encoding in WIDE_ENCODINGS:
        scales = groups.abs().amax(-1, keepdim=True) / largest_code(encoding)
    elif encoding is Encoding.INT4:
        scales = fitted_scales(groups).to(torch.bfloat16)
    else:
        scales = groups.abs().amax(-1, keepdim=True).to(torch.bfloat16)
    values = (groups / divisor(scales)).flatten(1)[:, :columns]
    return nearest_codes(values, encoding), scales.squeeze(-1)


def nearest_codes(values: torch.Tensor, encoding: Encoding) -> torch.Tensor:
    """Return the codes of the numbers nearest to `values` [rows, columns], already divided by their scales."""
    if encoding not in TABLES:
        return codes_of(nearest_levels(values, encoding), encoding)
    ordered, order = torch.tensor(TABLES[encoding], device=values.device).sort()
    nearest = torch.bucketize(values.contiguous(), (ordered[1:] + ordered[:-1]) / 2)
    return pack_nibbles(order[nearest].to(torch.uint8))


def nearest_levels(values: torch.Tensor, encoding: Encoding) -> torch.Tensor:
    """Round values to the nearest numbers that INT4, INT8 or FP8_E4M3 codes represent; fp32."""
    if encoding is Encoding.FP8_E4M3:
        return values.clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn).to(torch.float32)
    return values.round().clamp_(*_LEVELS[encoding])


def codes_of(levels: torch.Tensor, encoding: Encoding) -> torch.Tensor:
    """Return the codes of numbers [rows, columns] that `nearest_levels` returned."""
    if encoding is Encoding.INT4:
        return pack_nibbles((levels + 8).to(torch.uint8))
    return levels.to(torch.float8_e4m3fn if encoding is Encoding.FP8_E4M3 else torch.int8)


def fitted_scales(groups: torch.Tensor, importance: torch.Tensor | None = None) -> torch.Tensor:
    """Return scales [rows, groups, 1] for codes -8..7 of groups [rows, groups, columns] fp32.

    Tries several clippings and chooses the one with the least squared error, in which each column counts by its
    `importance` [groups, columns]. With codes q fixed, the best scale is sum(xq) / sum(qq), and its error is sum(xx) -
    sum(xq)^2 / sum(qq).
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


def divisor(scales: torch.Tensor) -> torch.Tensor:
    """Return the scales in fp32, with 1 instead of scales that are too small to divide by."""
    wide = scales.to(torch.float32)
    return torch.where(wide.abs() < _SMALLEST_DIVISOR, 1.0, wide)
