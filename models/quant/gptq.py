"""quantise_for_inputs: a matrix quantised for the inputs that it meets; rounding to the nearest looks at weights alone.

What counts is the error of the products, |(W - Q) X|^2 = sum over rows of (w - q) H (w - q)^T with H = X X^T, summed
over calibration inputs. GPTQ (Frantar et al. 2022, arXiv:2210.17323) rounds column after column and makes up for each
column's error in those still to come, by the inverse of H. Columns come in the order of their inputs' size, the
largest first, while the groups' scales are fixed beforehand, so that the order leaves no trace in the file. A scale
minimises its group's squared error, in which each column counts by its input's size.
"""

import torch

from models.errors import CheckpointError
from models.quant.activations import FP8_MAX, INT8_MAX
from models.quant.nibbles import pack_nibbles
from models.quant.quantise import divisor, fitted_scales
from models.quant.tensor import Encoding, QuantTensor

_BLOCK = 128  # columns rounded before the others are told
_DAMPING = 0.05  # of H's mean diagonal: what calibration has not seen must not be taken for impossible
_LEAST_IMPORTANCE = 1e-4  # of the mean
_MORE_DAMPING = (1.0, 10.0, 100.0)
_LEVELS = {Encoding.INT4: (-8.0, 7.0), Encoding.INT8: (-INT8_MAX, INT8_MAX)}


def quantise_for_inputs(
    weight: torch.Tensor, hessian: torch.Tensor, encoding: Encoding, group_size: int, scale_dtype: torch.dtype
) -> QuantTensor:
    """weight: [rows, columns] of any float type. hessian: [columns, columns] fp32, the sum of x x^T over inputs x.

    encoding: INT4 or INT8. group_size: divides the columns. Codes are chosen for the scales as they are kept, in
    `scale_dtype`. Raises CheckpointError if the inputs are not finite.
    """
    weight = weight.to(torch.float32)
    scales = _scales(weight, encoding, group_size, hessian.diagonal()).to(scale_dtype)
    divisors = divisor(scales).repeat_interleave(group_size, 1)
    levels = _levels_for_inputs(weight, hessian, divisors, *_LEVELS[encoding])
    return _with_codes(levels, scales, encoding, group_size)


def quantise_to_nearest(
    weight: torch.Tensor,
    encoding: Encoding,
    group_size: int,
    scale_dtype: torch.dtype,
    importance: torch.Tensor | None = None,
) -> QuantTensor:
    """The same without regard to inputs, in FP8_E4M3 too. importance: [columns], of each in the choice of scales."""
    weight = weight.to(torch.float32)
    scales = _scales(weight, encoding, group_size, importance).to(scale_dtype)
    values = weight / divisor(scales).repeat_interleave(group_size, 1)
    if encoding is Encoding.FP8_E4M3:
        return QuantTensor(encoding, values.clamp_(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn), scales, None, group_size)
    low, high = _LEVELS[encoding]
    return _with_codes(values.round_().clamp_(low, high), scales, encoding, group_size)


def _with_codes(levels: torch.Tensor, scales: torch.Tensor, encoding: Encoding, group_size: int) -> QuantTensor:
    is_int4 = encoding is Encoding.INT4
    codes = pack_nibbles((levels + 8).to(torch.uint8)) if is_int4 else levels.to(torch.int8)
    return QuantTensor(encoding, codes, scales, None, group_size)


def _scales(weight: torch.Tensor, encoding: Encoding, group_size: int, importance: torch.Tensor | None) -> torch.Tensor:
    """[rows, groups] fp32. importance: [columns]."""
    groups = weight.unflatten(1, (-1, group_size))
    if encoding is Encoding.INT4:
        by_group = None if importance is None else _floored(importance).unflatten(0, (-1, group_size))
        return fitted_scales(groups, by_group).squeeze(-1)
    largest = FP8_MAX if encoding is Encoding.FP8_E4M3 else INT8_MAX
    return groups.abs().amax(-1) / largest


def _floored(importance: torch.Tensor) -> torch.Tensor:
    """Groups that calibration never reached keep their weights too."""
    mean = importance.mean()
    return importance + torch.where(mean == 0, 1.0, mean * _LEAST_IMPORTANCE)


def _levels_for_inputs(
    weight: torch.Tensor, hessian: torch.Tensor, divisors: torch.Tensor, low: float, high: float
) -> torch.Tensor:
    """Whole numbers [rows, columns] from `low` to `high`, which the divisors [rows, columns] turn into weights."""
    order = hessian.diagonal().argsort(descending=True, stable=True)
    factor = _inverse_factor(hessian[order][:, order])
    remaining = weight.t()[order].contiguous()  # [columns, rows]: a column of weights is a row in memory
    divisors = divisors.t()[order].contiguous()
    levels = torch.empty_like(remaining)
    num_columns = len(order)
    for start in range(0, num_columns, _BLOCK):
        end = min(start + _BLOCK, num_columns)
        errors = torch.empty_like(remaining[start:end])
        for column in range(start, end):
            value, divisor = remaining[column], divisors[column]
            levels[column] = (value / divisor).round_().clamp_(low, high)
            errors[column - start] = (value - levels[column] * divisor) / factor[column, column]
            remaining[column + 1 : end] -= factor[column, column + 1 : end, None] * errors[column - start]
        remaining[end:] -= factor[start:end, end:].t() @ errors
    out = torch.empty_like(levels)
    out[order] = levels
    return out.t()


def _inverse_factor(hessian: torch.Tensor) -> torch.Tensor:
    """The upper triangular U with U^T U = H^-1, of H damped as far as it must be to have an inverse."""
    mean = hessian.diagonal().mean()
    mean = torch.where(mean == 0, 1.0, mean)  # an expert that no input was sent to
    for more in _MORE_DAMPING:
        damped = hessian + torch.eye(len(hessian)) * (mean * _DAMPING * more)
        lower, info = torch.linalg.cholesky_ex(damped)
        if info:
            continue
        upper, info = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
        if not info:
            return upper
    raise CheckpointError("calibration inputs are not finite; check the checkpoint, or use --method rtn")
