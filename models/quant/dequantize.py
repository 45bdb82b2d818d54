"""Dequantization of a QuantTensor in torch, by the definition of its format; kernels are tested against it."""

import torch

from models.quant.nibbles import unpack_crumbs, unpack_nibbles
from models.quant.tensor import WIDE_ENCODINGS, Encoding, QuantTensor

_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
_FP4_MAGNITUDES = (0.0, 0.0625 / 12, 8 / 12, 1.0, 4 / 12, 0.5, 2 / 12, 0.25)
_E2M1_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def _signed(magnitudes: tuple[float, ...]) -> tuple[float, ...]:
    return (*magnitudes, *(-value for value in magnitudes))  # the sign is the highest bit


# Code -> number, for encodings that are tables.
TABLES = {
    Encoding.NF4: _NF4,
    Encoding.FP4: _signed(_FP4_MAGNITUDES),
    Encoding.E2M1: _signed(_E2M1_MAGNITUDES),
    Encoding.IQ4_NL: (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113),
    Encoding.IQ2: (-43, -25, -9, -8, -7, -1, 1, 7, 8, 9, 25, 43, 0, 0, 0, 0),
}

_CHUNK_ELEMENTS = 1 << 22  # dequantized at a time: bounds the fp32 temporaries


def dequantize(tensor: QuantTensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the matrix [rows, columns] in `dtype`, computed in fp32 and rounded once.

    Columns are in the order of the layer's inputs, with the permutation undone.
    """
    rows, columns = tensor.shape
    out = torch.empty(rows, columns, dtype=dtype, device=tensor.codes.device)
    scales = scales_fp32(tensor)
    step = max(1, _CHUNK_ELEMENTS // columns)
    for start in range(0, rows, step):
        codes = tensor.codes[start : start + step]
        groups = torch.arange(start, start + len(codes), device=codes.device) // tensor.row_group
        values = _decode(codes, tensor.encoding)
        if tensor.zeros is not None:
            values -= _over_columns(tensor.zeros[groups].float(), tensor)
        elif tensor.encoding is Encoding.INT4:
            values -= 8
        values *= _over_columns(scales[groups], tensor)
        if tensor.permutation is None:
            out[start : start + step] = values
        else:
            out[start : start + step, tensor.permutation] = values.to(dtype)
    return out


def scales_fp32(tensor: QuantTensor) -> torch.Tensor:
    """Return the scales in fp32, times the matrix's.

    E8M0 scales are the exponent bits of fp32 numbers; 0 is 2^-127, a subnormal.
    """
    if tensor.scales.dtype == torch.uint8:
        return (tensor.scales.to(torch.int32) << 23).clamp_min(1 << 22).view(torch.float32)
    scales = tensor.scales.float()
    return scales if tensor.matrix_scale == 1 else scales * tensor.matrix_scale


def _decode(codes: torch.Tensor, encoding: Encoding) -> torch.Tensor:
    if encoding in WIDE_ENCODINGS:
        return codes.float()
    if encoding is Encoding.TERNARY:
        return unpack_crumbs(codes).float() - 1
    nibbles = unpack_nibbles(codes)
    if encoding is Encoding.INT4:
        return nibbles.float()
    return torch.tensor(TABLES[encoding], dtype=torch.float32, device=codes.device)[nibbles.int()]


def _over_columns(per_group: torch.Tensor, tensor: QuantTensor) -> torch.Tensor:
    """Repeat values per group [rows, groups] for each column, [rows, columns]; the last group may be short."""
    columns = tensor.shape[1]
    if per_group.shape[1] == 1:
        return per_group.expand(-1, columns)
    return per_group.repeat_interleave(tensor.group_size, dim=1)[:, :columns]
