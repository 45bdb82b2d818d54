"""Frequencies of rotary embeddings, with their scalings."""

import math

import torch

from models.architecture.positions import (
    DynamicScaling,
    FrequencyFactors,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    RopeSpec,
    YarnScaling,
)


def inverse_frequencies(spec: RopeSpec | None, device: torch.device, context: int) -> torch.Tensor:
    """Return the radians per position of each pair of dimensions: [rotary_dim / 2], fp32; empty if `spec` is None.

    context: the longest context that is served; dynamic scaling and longrope depend on it.
    """
    if spec is None:
        return torch.empty(0, dtype=torch.float32, device=device)
    frequencies = _scaled_frequencies(spec, device, context)
    if spec.num_pairs is not None:
        frequencies[spec.num_pairs :] = 0.0
    return frequencies


def _scaled_frequencies(spec: RopeSpec, device: torch.device, context: int) -> torch.Tensor:
    frequencies = _unscaled(spec.theta, spec.rotary_dim, device)
    match spec.scaling:
        case None:
            return frequencies
        case LinearScaling(factor):
            return frequencies / factor
        case FrequencyFactors(factors):
            return frequencies / torch.tensor(factors, dtype=torch.float32, device=device)
        case LongRopeScaling(short, long, original):
            factors = torch.tensor(long if context > original else short, dtype=torch.float32, device=device)
            # Not frequencies / factors: transformers rounds so, and a last bit is an angle of 0.01 at 131,072.
            return 1.0 / (factors * _periods(spec.theta, spec.rotary_dim, device))
        case DynamicScaling(factor, original):
            growth = factor * max(context, original) / original - (factor - 1)
            theta = spec.theta * growth ** (spec.rotary_dim / (spec.rotary_dim - 2))
            return _unscaled(theta, spec.rotary_dim, device)
        case YarnScaling():
            return frequencies * _yarn_factors(spec, spec.scaling, device)
        case Llama3Scaling():
            return _llama3(frequencies, spec.scaling)


def attention_factor(spec: RopeSpec | None) -> float:
    """Return the factor by which the rotary scaling multiplies cos and sin; 1 for most scalings."""
    scaling = None if spec is None else spec.scaling
    return scaling.attention_factor if isinstance(scaling, YarnScaling | LongRopeScaling) else 1.0


def _unscaled(theta: float, rotary_dim: int, device: torch.device) -> torch.Tensor:
    return 1.0 / _periods(theta, rotary_dim, device)


def _periods(theta: float, rotary_dim: int, device: torch.device) -> torch.Tensor:
    """Return the number of positions per radian, for each pair of dimensions."""
    exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32, device=device) / rotary_dim
    return theta**exponents


def _llama3(frequencies: torch.Tensor, scaling: Llama3Scaling) -> torch.Tensor:
    num_rotations = scaling.original_max_position * frequencies / (2 * math.pi)  # within the original context
    blend = (num_rotations - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    smooth = blend.clamp(0.0, 1.0)  # 1: fast, as it is; 0: slow, divided by the factor
    return frequencies * (smooth + (1.0 - smooth) / scaling.factor)


def _yarn_factors(spec: RopeSpec, scaling: YarnScaling, device: torch.device) -> torch.Tensor:
    """Return each frequency's factor: 1 for high frequencies, 1 / scaling.factor for low, a linear ramp between."""

    def dimension(num_rotations: float) -> float:
        """Return the (fractional) index of the pair that rotates `num_rotations` times in the original context."""
        length = scaling.original_max_position / (num_rotations * 2 * math.pi)
        return spec.rotary_dim * math.log(length) / (2 * math.log(spec.theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.rounds_bounds:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, spec.rotary_dim - 1)
    pairs = torch.arange(spec.rotary_dim // 2, dtype=torch.float32, device=device)
    slow = ((pairs - low) / max(high - low, 0.001)).clamp(0.0, 1.0)  # a band without width is a step
    return slow / scaling.factor + (1.0 - slow)
