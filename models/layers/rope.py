"""Rotary frequencies with their scalings."""

import math

import torch

from models.spec import FrequencyFactors, LinearScaling, Llama3Scaling, RopeSpec


def inverse_frequencies(spec: RopeSpec, device: torch.device) -> torch.Tensor:
    """Radians a position for each pair of dimensions: [rotary_dim / 2], fp32."""
    exponents = torch.arange(0, spec.rotary_dim, 2, dtype=torch.float32, device=device) / spec.rotary_dim
    frequencies = 1.0 / spec.theta**exponents
    match spec.scaling:
        case None:
            return frequencies
        case LinearScaling(factor):
            return frequencies / factor
        case FrequencyFactors(factors):
            return frequencies / torch.tensor(factors, dtype=torch.float32, device=device)
        case Llama3Scaling():
            return _llama3(frequencies, spec.scaling)


def _llama3(frequencies: torch.Tensor, scaling: Llama3Scaling) -> torch.Tensor:
    turns = scaling.original_max_position * frequencies / (2 * math.pi)  # full circles within the original context
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = blend.clamp(0.0, 1.0)  # 1: fast enough to be kept; 0: slow, interpolated in full
    return frequencies * (kept + (1.0 - kept) / scaling.factor)
