"""RotatedCenter: the part of keys that a cache of 4 bits does not store, since it is known for each position."""

from dataclasses import dataclass

import torch

_CHUNK = 128  # positions; kChunk of attention_products.h
_MARGIN = 16  # positions around a chunk, whose tiles may begin before it
_TERMS = 16  # kSlowTerms of attention_center.h
# The largest angle, of half a chunk, whose cosine and sine the terms add up to with errors of 1e-7.
_SLOW_ANGLE = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class KeyRotation:
    """Rotary embedding at all positions up to `max_len`, for the scores that centers of keys add.

    bases: [n, rotary_dim] fp32, cos of position 128 * n for each pair of dimensions, then sin, both times `factor`.
    offsets: [2 * num_fast, 160] fp32, cos of positions -16 .. 143 for the first num_fast pairs, then sin. If the other
    pairs turn so little in a chunk that polynomials of the position make their cosines and sines, [16, 160] of these.
    terms: [2 * number of those pairs, 16] fp32, which polynomials make up their cosines, then sines; None without.
    """

    frequencies: torch.Tensor  # [rotary_dim / 2] fp32
    factor: float  # of rotated keys
    max_len: int
    bases: torch.Tensor
    offsets: torch.Tensor
    terms: torch.Tensor | None

    @property
    def num_fast(self) -> int:
        return (len(self.offsets) - (0 if self.terms is None else _TERMS)) // 2


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
    device, wide = frequencies.device, frequencies.to(torch.float64)

    def table(positions: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
        angles = torch.outer(positions.to(torch.float64), frequencies)
        return torch.cat((angles.cos(), angles.sin()), dim=1)

    bases = table(torch.arange(0, max_len + 1, _CHUNK, device=device), wide) * factor
    offsets, terms = torch.arange(-_MARGIN, _CHUNK + _MARGIN, device=device), None
    fast = (wide.abs() * _CHUNK / 2 > _SLOW_ANGLE).nonzero()
    num_fast = 0 if len(fast) == 0 else int(fast[-1]) + 1
    if len(frequencies) - num_fast < _TERMS:  # they would spare less than the polynomials cost
        num_fast = len(frequencies)
    columns = table(offsets, wide[:num_fast])
    if num_fast < len(frequencies):
        # Chebyshev's polynomials through the functions' values at the zeros of one of a higher degree
        degrees = torch.arange(2 * _TERMS, device=device, dtype=torch.float64)
        zeros = torch.cos(torch.pi * (degrees + 0.5) / (2 * _TERMS))
        values = table((zeros + 1) * (_CHUNK / 2), wide[num_fast:])
        terms = values.t() @ _chebyshev(zeros) / _TERMS
        terms[:, 0] /= 2
        terms = terms.to(torch.float32)
        columns = torch.cat((columns, _chebyshev(offsets.to(torch.float64) / (_CHUNK / 2) - 1)), dim=1)
    columns = columns.t().to(torch.float32).contiguous()
    return KeyRotation(frequencies, factor, max_len, bases.to(torch.float32), columns, terms)


def _chebyshev(x: torch.Tensor) -> torch.Tensor:
    """Return the first _TERMS of Chebyshev's polynomials at x [n], as [n, _TERMS]."""
    rows = [torch.ones_like(x), x]
    while len(rows) < _TERMS:
        rows.append(2 * x * rows[-1] - rows[-2])
    return torch.stack(rows, dim=1)
