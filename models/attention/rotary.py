"""Rotary position embedding of query and key heads (RoPE), and the scale that some models give queries by position."""

from typing import NamedTuple

import torch

from models.architecture.attention import QueryTemperature


class RotaryEmbedding(NamedTuple):
    """cos and sin of the rows' angles, [T, rotary_dim / 2] fp32 each; computed once per step for all layers that use
    them.

    Dimension d of a head is rotated with d + rotary_dim / 2; rotary_dim may be 0. q_scale: [T] fp32, multiplies rotated
    queries.
    """

    cos: torch.Tensor
    sin: torch.Tensor
    q_scale: torch.Tensor | None = None

    def of_rows(self, rows: torch.Tensor) -> "RotaryEmbedding":
        """Return the embedding of some rows, by their indices [n] int64."""
        return RotaryEmbedding(*(None if part is None else part[rows] for part in self))


def rotary_embedding(
    positions: torch.Tensor,
    frequencies: torch.Tensor,
    attention_factor: float = 1.0,
    temperature: QueryTemperature | None = None,
) -> RotaryEmbedding:
    """Return the embedding of `positions` [T], in fp32: bf16 cannot tell neighboring positions apart beyond 256.

    attention_factor: multiplies cos and sin, and so rotated queries and keys (yarn, longrope).
    """
    angles = torch.outer(positions.to(torch.float32), frequencies)  # [T, rotary_dim / 2]
    cos, sin = angles.cos(), angles.sin()
    if attention_factor != 1.0:
        cos, sin = cos * attention_factor, sin * attention_factor
    return RotaryEmbedding(cos, sin, None if temperature is None else _query_scale(positions, temperature))


def _query_scale(positions: torch.Tensor, spec: QueryTemperature) -> torch.Tensor:
    """Return the factors of queries at `positions`: [T], fp32."""
    steps = torch.floor((positions + spec.offset).to(torch.float32) / spec.floor_scale)
    return 1.0 + spec.scale * torch.log1p(steps)


def rotate(x: torch.Tensor, rotary: RotaryEmbedding) -> torch.Tensor:
    """Rotate the first rotary_dim dimensions of x [T, heads, D], in fp32. Returns x's dtype."""
    half = rotary.cos.shape[-1]
    cos, sin = rotary.cos.unsqueeze(1), rotary.sin.unsqueeze(1)  # [T, 1, rotary_dim / 2]
    first, second = x[..., :half].to(torch.float32), x[..., half : 2 * half].to(torch.float32)
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
    return rotated if 2 * half == x.shape[-1] else torch.cat((rotated, x[..., 2 * half :]), dim=-1)


def scale_queries(q: torch.Tensor, rotary: RotaryEmbedding) -> torch.Tensor:
    """Multiply rotated queries [T, H, D] by `rotary.q_scale`, unless that is None."""
    return q if rotary.q_scale is None else (q * rotary.q_scale[:, None, None]).to(q.dtype)
