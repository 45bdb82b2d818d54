"""Rotation of query and key heads by their positions."""

from typing import NamedTuple

import torch

from models.spec import QueryTemperature


class Rotation(NamedTuple):
    """cos and sin of the rows' angles, each [T, rotary_dim / 2] fp32; made once a step, for all layers that turn alike.

    Dimension d of a head turns with d + rotary_dim / 2; rotary_dim may be 0. Turned queries are multiplied by
    `q_scale`, [T] fp32, where there is one.
    """

    cos: torch.Tensor
    sin: torch.Tensor
    q_scale: torch.Tensor | None = None


def rotation(
    positions: torch.Tensor,
    frequencies: torch.Tensor,
    scale: float = 1.0,
    temperature: QueryTemperature | None = None,
) -> Rotation:
    """The angles of `positions` [T] in fp32: bf16 could not tell neighboring positions apart beyond 256.

    scale: of cos and sin, and so of rotated queries and keys (yarn's and longrope's attention factor).
    """
    angles = torch.outer(positions.to(torch.float32), frequencies)  # [T, rotary_dim / 2]
    cos, sin = angles.cos(), angles.sin()
    if scale != 1.0:
        cos, sin = cos * scale, sin * scale
    return Rotation(cos, sin, None if temperature is None else _query_scale(positions, temperature))


def _query_scale(positions: torch.Tensor, spec: QueryTemperature) -> torch.Tensor:
    """[T], fp32."""
    steps = torch.floor((positions + spec.offset).to(torch.float32) / spec.floor_scale)
    return 1.0 + spec.scale * torch.log1p(steps)


def rotate(x: torch.Tensor, by: Rotation) -> torch.Tensor:
    """x [T, heads, D] with its first rotary_dim dimensions turned; computed in fp32, returned in x's dtype."""
    half = by.cos.shape[-1]
    cos, sin = by.cos.unsqueeze(1), by.sin.unsqueeze(1)  # [T, 1, rotary_dim / 2]
    first, second = x[..., :half].to(torch.float32), x[..., half : 2 * half].to(torch.float32)
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
    return turned if 2 * half == x.shape[-1] else torch.cat((turned, x[..., 2 * half :]), dim=-1)


def scale_queries(q: torch.Tensor, by: Rotation) -> torch.Tensor:
    """q [T, H, D], turned, as attention takes it."""
    return q if by.q_scale is None else (q * by.q_scale[:, None, None]).to(q.dtype)
