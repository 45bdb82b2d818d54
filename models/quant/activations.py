"""Quantization of a layer's input rows in plain torch, where the checkpoint requires it (such as W8A8)."""

import torch

from models.quant.tensor import ActivationQuantization, Encoding, QuantTensor

FP8_MAX = 448.0
INT8_MAX = 127.0
SMALLEST_ROW = 1e-5  # the largest number of a row of TERNARY weights counts as at least this


def round_rows(x: torch.Tensor, weight: QuantTensor) -> torch.Tensor:
    """Round x [T, columns] to the weights' 8-bit type, or return it unchanged if the checkpoint is weight-only."""
    match weight.activation:
        case ActivationQuantization.NONE:
            return x
        case ActivationQuantization.STATIC:
            assert weight.input_scale is not None
            scale = torch.full((), weight.input_scale, dtype=torch.float32, device=x.device)  # copies nothing
            return _rounded(x.to(torch.float32), scale, weight.encoding).to(x.dtype)
        case ActivationQuantization.DYNAMIC_PER_TOKEN:
            return round_by_token(x.to(torch.float32), weight.encoding).to(x.dtype)
        case ActivationQuantization.DYNAMIC_PER_GROUP:
            columns, size = x.shape[-1], weight.group_size
            wide = torch.nn.functional.pad(x.to(torch.float32), (0, -columns % size)).unflatten(-1, (-1, size))
            return _rounded(wide, _scale(wide, weight.encoding), weight.encoding).flatten(-2)[..., :columns].to(x.dtype)


def round_by_token(x: torch.Tensor, encoding: Encoding) -> torch.Tensor:
    """Round x [T, columns] fp32 to INT8 or FP8_E4M3 with one scale per row; returns fp32.

    For TERNARY weights to INT8 as BitNet does: rows are multiplied, by at most 127 / 1e-5.
    """
    if encoding is Encoding.TERNARY:
        inverse = torch.tensor(INT8_MAX) / x.abs().amax(-1, keepdim=True).clamp_min(SMALLEST_ROW)
        return (x * inverse).round().clamp(-INT8_MAX - 1, INT8_MAX) / inverse
    return _rounded(x, _scale(x, encoding), encoding)


def largest_code(encoding: Encoding) -> float:
    """Return the largest number that INT8 or FP8_E4M3 codes represent."""
    return FP8_MAX if encoding is Encoding.FP8_E4M3 else INT8_MAX


def _scale(values: torch.Tensor, encoding: Encoding) -> torch.Tensor:
    return values.abs().amax(-1, keepdim=True) / largest_code(encoding)


def _rounded(values: torch.Tensor, scale: torch.Tensor, encoding: Encoding) -> torch.Tensor:
    codes = values / torch.where(scale > 0, scale, 1.0)
    if encoding is Encoding.FP8_E4M3:
        return codes.clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn).to(torch.float32) * scale
    return codes.round().clamp(-INT8_MAX - 1, INT8_MAX) * scale
