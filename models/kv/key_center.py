"""RotatedCenter: the part of keys that a cache of 4 bits does not store, since it is known for each position."""

from dataclasses import dataclass

import torch

_CHUNK = 128  # positions; kChunk of attention_products.h
_MARGIN = 16  # positions around a chunk, whose tiles may begin before it


@dataclass(frozen=True, slots=True, eq=False)
class KeyRotation:
    """Rotary embedding at all positions up to `max_len`, for the scores that centers of keys add.

    bases: [n, rotary_dim] fp32, cos of position 128 * n for each pair of dimensions, then sin, both times `factor`.
    offsets: [rotary_dim, 160] fp32, cos of positions -16 .. 143 for each pair, then sin.
    """

    frequencies: torch.Tensor  # [rotary_dim / 2] fp32
    factor: float  # of rotated keys
    max_len: int
    bases: torch.Tensor
    offsets: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class RotatedCenter:
    """Constants that are subtracted from keys before rotation: [2, K, D] fp32, at position 0 and at all others.

    Scores with stored keys lack queries times the rotated constants, which attention adds.
    """

    heads: torch.Tensor
    rotation: KeyRotation

    def subtracted_from(self, k: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Return k [T, K, D] without the center, in its dtype. sin: of the rows' angles, 0 at position 0 alone."""
        is_first = ~sin.any(dim=-1)[:, None, None]
        return (k.to(torch.float32) - torch.where(is_first, *self.heads)).to(k.dtype)


def key_rotation(frequencies: torch.Tensor, factor: float, max_len: int) -> KeyRotation:
    """Return the tables for a rotary embedding. frequencies: [rotary_dim / 2] fp32."""
    device = frequencies.device

    def table(positions: torch.Tensor) -> torch.Tensor:
        angles = torch.outer(positions.to(torch.float64), frequencies.to(torch.float64))
        return torch.cat((angles.cos(), angles.sin()), dim=1)

    bases = table(torch.arange(0, max_len + 1, _CHUNK, device=device)) * factor
    offsets = table(torch.arange(-_MARGIN, _CHUNK + _MARGIN, device=device)).t()
    tables = (each.to(torch.float32).contiguous() for each in (bases, offsets))
    return KeyRotation(frequencies, factor, max_len, *tables)
