"""Rotary positions: frequencies with their scalings, and the rotation of query and key heads."""

import math
from typing import NamedTuple

import torch

from models.spec import FrequencyFactors, LinearScaling, Llama3Scaling, RopeSpec


class Rotation(NamedTuple):
    """cos and sin of the rows' angles, each [T, 1, rotary_dim] fp32 (both halves alike), made once a step."""

    cos: torch.Tensor
    sin: torch.Tensor


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


def rotation(positions: torch.Tensor, frequencies: torch.Tensor) -> Rotation:
    """The angles of `positions` [T] in fp32: bf16 could not tell neighbouring positions apart beyond 256."""
    angles = torch.outer(positions.to(torch.float32), frequencies)  # [T, rotary_dim / 2]
    angles = torch.cat((angles, angles), dim=-1).unsqueeze(1)
    return Rotation(angles.cos(), angles.sin())


def rotate(x: torch.Tensor, by: Rotation) -> torch.Tensor:
    """x [T, heads, D] with its first rotary_dim dimensions turned; computed in fp32, returned in x's dtype."""
    rotary_dim = by.cos.shape[-1]
    turned = x[..., :rotary_dim].to(torch.float32)
    first, second = turned.chunk(2, dim=-1)
    turned = turned * by.cos + torch.cat((-second, first), dim=-1) * by.sin
    turned = turned.to(x.dtype)
    return turned if rotary_dim == x.shape[-1] else torch.cat((turned, x[..., rotary_dim:]), dim=-1)
