"""column_factors: by what to multiply a matrix's columns, and divide their inputs, before it is quantised.

Columns that meet large inputs should be rounded finely. Multiplied by more than the others of their group they are, and
dividing the inputs costs nothing where a norm or another matrix before can do it (AWQ, Lin et al. 2023,
arXiv:2306.00978). Where inputs are rounded too, it takes the peaks off them (SmoothQuant, Xiao et al. 2022,
arXiv:2211.10438). The factors are a power of the inputs' size; of several powers the one with the least error.
"""

import torch

from models.quant.activations import INT8_MAX
from models.quant.dequantise import dequantise
from models.quant.gptq import quantise_to_nearest
from models.quant.tensor import Encoding

# E4M3's relative error is the same at any size, of weights as of inputs, so that factors move it and change nothing.
EQUALISED = (Encoding.INT4, Encoding.INT8)
_POWERS = (0.0, 0.15, 0.3, 0.45, 0.6)


def column_factors(
    weight: torch.Tensor, hessian: torch.Tensor, encoding: Encoding, group_size: int, rows: torch.Tensor | None
) -> torch.Tensor:
    """[columns] fp32, about 1. weight: [rows, columns] fp32; hessian: the sum of x x^T over inputs x.

    encoding: of EQUALISED.
    rows: [n, columns] some of the inputs, where they are rounded to INT8 by token.
    """
    sizes = hessian.diagonal().sqrt()
    sizes = (sizes / sizes.mean().clamp_min(1e-30)).clamp_min(1e-4)
    candidates = [_centred(sizes**power) for power in _POWERS]
    errors = [_error(weight, hessian, encoding, group_size, rows, factors) for factors in candidates]
    return candidates[min(range(len(errors)), key=errors.__getitem__)]


def folded_hessian(hessian: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """H of inputs that are divided by the factors."""
    return hessian / (factors[:, None] * factors)


def _centred(factors: torch.Tensor) -> torch.Tensor:
    return factors / (factors.amax() * factors.amin()).sqrt()


def _error(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    encoding: Encoding,
    group_size: int,
    rows: torch.Tensor | None,
    factors: torch.Tensor,
) -> float:
    """Squared error of the products with rounding to the nearest."""
    scaled, folded = weight * factors, folded_hessian(hessian, factors)
    nearest = quantise_to_nearest(scaled, encoding, group_size, torch.float32, folded.diagonal())
    error = scaled - dequantise(nearest, torch.float32)
    total = float(((error @ folded) * error).sum())
    if rows is None:
        return total
    # Rounding moves each input by up to half a step: a variance of a twelfth of the step's square.
    steps = (rows / factors).abs().amax(1) / INT8_MAX
    trace = float(hessian.diagonal().sum() / rows.square().sum().clamp_min(1e-30))  # inputs in all, in units of `rows`
    return total + trace * float(steps.square().sum() / 12) * float(scaled.square().sum())
