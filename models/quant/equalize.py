"""Factors per column that multiply a weight before quantization and divide the layer's inputs (AWQ, SmoothQuant).

A column with large inputs gets a larger factor than the rest of its group, so that its weights are rounded more finely.
The norm or matrix before the layer can divide the inputs at no cost (AWQ, Lin et al. 2023, arXiv:2306.00978). If inputs
are rounded, too, the division reduces their peaks (SmoothQuant, Xiao et al. 2022, arXiv:2211.10438). The factors are a
power of the inputs' size: the power with the smallest error, measured with some rows of the matrix and some inputs.
"""

import torch

from models.quant.activations import INT8_MAX
from models.quant.dequantize import dequantize
from models.quant.gptq import quantize_to_nearest
from models.quant.tensor import Encoding

# E4M3's relative error is the same at any size of weights and inputs, so that factors would change nothing.
EQUALIZED = (Encoding.INT4, Encoding.INT8)
_SAMPLED = 256  # of the matrix's rows
_POWERS = (0.0, 0.15, 0.3, 0.45, 0.6)


def column_factors(
    weight: torch.Tensor,
    sizes: torch.Tensor,
    rows: torch.Tensor,
    encoding: Encoding,
    group_size: int,
    *,
    rounds_inputs: bool,
) -> torch.Tensor:
    """Return the equalization factor of each column, [columns] fp32; the largest times the smallest is 1.

    weight: [rows, columns] fp32. sizes: sums of the squared inputs, [columns] fp32. rows: sample of the inputs, [n,
    columns] fp32. encoding: one of EQUALIZED. rounds_inputs: whether inputs are rounded to INT8 by token.
    """
    weight = weight[:: max(1, len(weight) // _SAMPLED)]
    lengths = sizes.sqrt()
    lengths = (lengths / lengths.mean().clamp_min(1e-30)).clamp_min(1e-4)

    # The error of a row of outputs counts relative to the row's size, since norms follow: otherwise the few tokens with
    # massive activations would decide alone.
    shares = 1.0 / (rows @ weight.t()).square().sum(1).clamp_min(1e-30)

    def error(factors: torch.Tensor) -> float:
        """Return the squared error of the layer's outputs after round-to-nearest, each row relative to its size."""
        scaled, divided = weight * factors, rows / factors
        nearest = quantize_to_nearest(scaled, encoding, group_size, torch.float32, sizes / factors.square())
        errors = (divided @ (scaled - dequantize(nearest, torch.float32)).t()).square().sum(1)
        if rounds_inputs:
            # Rounding moves each input by up to half a step: a variance of a twelfth of the step's square.
            steps = divided.abs().amax(1) / INT8_MAX
            errors += steps.square() / 12 * scaled.square().sum()
        return float(errors @ shares)

    return min((_centered(lengths**power) for power in _POWERS), key=error)


def _centered(factors: torch.Tensor) -> torch.Tensor:
    return factors / (factors.amax() * factors.amin()).sqrt()
