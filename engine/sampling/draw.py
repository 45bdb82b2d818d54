"""Random numbers that depend only on a request's seed and a token's position, and the draw that uses them.

A counter-based generator instead of a stateful one: the token at a position is the same whether the request ran alone,
in a batch, in chunks, or again after a preemption.
"""

import enum
import hashlib
import struct

import torch

_KEY = struct.Struct("<qq")


class Purpose(enum.Enum):
    """What a random number decides; numbers of different purposes at one position are independent."""

    SAMPLE = b""
    PROPOSE = b"propose"  # a draft model's token
    ACCEPT = b"accept"  # whether it is accepted
    XTC = b"xtc"  # whether top choices are excluded


def uniform(seed: int, position: int, purpose: Purpose = Purpose.SAMPLE) -> float:
    """A number in [0, 1) with 53 random bits, a pure function of its arguments (blake2b as the mixing function)."""
    digest = hashlib.blake2b(_KEY.pack(seed, position), digest_size=8, person=purpose.value).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def draw(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """The index that each row's uniform number selects, by inversion of the cumulative distribution.

    weights: [L, C], non-negative, any scale, in an order that does not depend on the batch. uniforms: [L] in [0, 1).
    Returns [L] int64. fp64, because over 150,000 entries the rounding of an fp32 sum would move probability mass.
    """
    cumulative = weights.to(torch.float64).cumsum(dim=-1)
    targets = uniforms.to(torch.float64) * cumulative[:, -1]
    index = torch.searchsorted(cumulative, targets.unsqueeze(-1), right=True).squeeze(-1)
    # A target that rounds up to the total would be beyond the end: take the last entry that has weight.
    last = (cumulative < cumulative[:, -1:]).sum(dim=-1)
    return torch.minimum(index, last)
