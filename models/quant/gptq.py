"""GPTQ: quantization of a matrix with the least error for calibration inputs; also rounding to nearest.

The error to minimize is that of the products, |(W - Q) X|^2 = sum over rows of (w - q) H (w - q)^T with H = X X^T,
summed over calibration inputs. GPTQ (Frantar et al. 2022, arXiv:2210.17323) rounds column after column and corrects
each column's error in the columns after it. With H = U D U^T, U unit upper triangular, column k is rounded after adding
the errors of the columns before, each times its element of U's column k (Chee et al. 2023, arXiv:2307.13304, show that
the codes are the same). This takes one Cholesky factor and no inverse. Columns are rounded in the order of their
inputs' size, the largest first; the groups' scales are fixed before, so that the order leaves no trace in the file. A
scale minimizes its group's squared error, in which each column counts by its input's size; an INT8 scale maps the
largest number to the largest code.
"""

from dataclasses import dataclass

import torch

from models.errors import CheckpointError
from models.quant.activations import FP8_MAX, largest_code
from models.quant.round_to_nearest import codes_of, divisor, fitted_scales, nearest_codes, nearest_levels
from models.quant.tensor import Encoding, QuantTensor

_BLOCK = 128  # columns whose errors are applied to the others in one product
_DAMPING = 0.05  # of H's mean diagonal, for inputs that calibration has not seen
_CHUNK_ELEMENTS = 1 << 17  # elements whose scales are fitted together, so that temporaries stay in the caches
_MIN_IMPORTANCE = 1e-4  # of the mean
_MORE_DAMPING = (1.0, 10.0, 100.0)
_FP8_CANDIDATES = 8  # scales within an octave, after which codes repeat with other exponents


@dataclass(frozen=True, slots=True, eq=False)
class FactoredInputs:
    """H = X X^T of a matrix's inputs X, factored for GPTQ; shared by all matrices with the same inputs.

    sizes: [columns] fp32, the diagonal of H. order: [columns] int64, the columns in the order of `lower`; the last one
    is rounded first. lower: [columns, columns] fp32, the Cholesky factor of H in that order, damped.
    """

    sizes: torch.Tensor
    order: torch.Tensor
    lower: torch.Tensor

    def solve(self, products: torch.Tensor) -> torch.Tensor:
        """Return products [n, columns] times the inverse of H: for Y X^T, the least-squares weights from X to Y."""
        solved = torch.cholesky_solve(products[:, self.order].t(), self.lower)  # [columns, n]
        out = torch.empty_like(products)
        out[:, self.order] = solved.t()
        return out


def factor_inputs(hessian: torch.Tensor) -> FactoredInputs:
    """Factor H, the sum of x x^T over inputs x, [columns, columns] fp32, damped until it is positive definite.

    Raises CheckpointError if the inputs are not finite.
    """
    sizes = hessian.diagonal().clone()
    order = sizes.argsort(descending=True, stable=True).flip(0)
    mean = sizes.mean()
    mean = torch.where(mean == 0, 1.0, mean)  # an expert without inputs
    ordered = hessian[order][:, order]
    for more in _MORE_DAMPING:
        damped = ordered.clone()
        damped.diagonal().add_(mean * _DAMPING * more)
        lower, info = torch.linalg.cholesky_ex(damped)
        if not info:
            return FactoredInputs(sizes, order, lower)
    raise CheckpointError("calibration inputs are not finite; check the checkpoint, or use --method rtn")


def quantize_for_inputs(
    weight: torch.Tensor, inputs: FactoredInputs, encoding: Encoding, group_size: int, scale_dtype: torch.dtype
) -> QuantTensor:
    """Quantize a weight [rows, columns] of any float type by GPTQ: with the least error for the calibration inputs.

    encoding: INT4, INT8 or FP8_E4M3. group_size: a divisor of columns. Codes are chosen for the scales as they are
    stored, in `scale_dtype`.
    """
    weight = weight.to(torch.float32)
    scales = _scales(weight, encoding, group_size, inputs.sizes).to(scale_dtype)
    divisors = divisor(scales).repeat_interleave(group_size, 1)
    levels = _levels_for_inputs(weight, inputs, divisors, encoding)
    return QuantTensor(encoding, codes_of(levels, encoding), scales, None, group_size)


def quantize_to_nearest(
    weight: torch.Tensor,
    encoding: Encoding,
    group_size: int,
    scale_dtype: torch.dtype,
    importance: torch.Tensor | None = None,
) -> QuantTensor:
    """Quantize a weight [rows, columns] of any float type by rounding to nearest. group_size: a divisor of columns.

    importance: [columns], factors of the columns' squared errors in the choice of scales.
    """
    weight = weight.to(torch.float32)
    scales = _scales(weight, encoding, group_size, importance).to(scale_dtype)
    values = weight / divisor(scales).repeat_interleave(group_size, 1)
    return QuantTensor(encoding, nearest_codes(values, encoding), scales, None, group_size)


def _scales(weight: torch.Tensor, encoding: Encoding, group_size: int, importance: torch.Tensor | None) -> torch.Tensor:
    """Return a scale for each group, [rows, groups] fp32. importance: [columns], factors of errors."""
    groups = weight.unflatten(1, (-1, group_size))
    by_group = None if importance is None else _floored(importance).unflatten(0, (-1, group_size))
    if encoding is Encoding.INT4:
        step = max(1, _CHUNK_ELEMENTS // weight.shape[1])
        return torch.cat([fitted_scales(part, by_group).squeeze(-1) for part in groups.split(step)])
    if encoding is Encoding.FP8_E4M3 and by_group is not None:
        return _fitted_fp8_scales(groups, by_group)
    return groups.abs().amax(-1) / largest_code(encoding)


def _fitted_fp8_scales(groups: torch.Tensor, importance: torch.Tensor) -> torch.Tensor:
    """Return the scales [rows, groups] with the least squared error among several candidates.

    The smallest candidate maps a group's largest number to E4M3's largest. The error depends on where in E4M3's binades
    numbers lie. groups: [rows, groups, columns]; importance: [groups, columns].
    """
    smallest = groups.abs().amax(-1) / FP8_MAX
    scales, least_error = smallest, torch.full_like(smallest, torch.inf)
    for step in range(_FP8_CANDIDATES):
        candidate = smallest * 2 ** (step / _FP8_CANDIDATES)
        wide = divisor(candidate)[..., None]
        misses = nearest_levels(groups / wide, Encoding.FP8_E4M3) * wide - groups
        error = (misses.square() * importance).sum(-1)
        scales = torch.where(error < least_error, candidate, scales)
        least_error = torch.minimum(error, least_error)
    return scales


def _floored(importance: torch.Tensor) -> torch.Tensor:
    """Return the importance with a minimum above 0, so that groups without calibration inputs keep their weights."""
    mean = importance.mean()
    return importance + torch.where(mean == 0, 1.0, mean * _MIN_IMPORTANCE)


def _levels_for_inputs(
    weight: torch.Tensor, inputs: FactoredInputs, divisors: torch.Tensor, encoding: Encoding
) -> torch.Tensor:
    """Return the numbers [rows, columns] that GPTQ's codes represent; times `divisors` they approximate the weights."""
    order = inputs.order
    weight = weight.t()[order].contiguous()  # [columns, rows]: a column of weights is a row in memory
    divisors = divisors.t()[order].contiguous()
    levels, errors = torch.empty_like(weight), torch.empty_like(weight)
    for end in range(len(order), 0, -_BLOCK):
        start = max(0, end - _BLOCK)
        shares = inputs.lower[start:, start:end] / inputs.lower.diagonal()[start:end]  # U's columns, upside down
        corrected = weight[start:end].addmm(shares[end - start :].t(), errors[end:])
        for column in reversed(range(start, end)):
            here = column - start
            value = corrected[here].addmv(errors[column + 1 : end].t(), shares[here + 1 : end - start, here])
            levels[column] = nearest_levels(value / divisors[column], encoding)
            torch.addcmul(weight[column], levels[column], divisors[column], value=-1.0, out=errors[column])
    out = torch.empty_like(levels)
    out[order] = levels
    return out.t()
