"""Packing of 4-bit codes, two per byte with even columns in low nibbles, to which all formats are converted."""

import torch


def unpack_nibbles(packed: torch.Tensor) -> torch.Tensor:
    """Unpack [..., n] uint8 to [..., 2n] uint8, each 0..15."""
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2)


def pack_nibbles(codes: torch.Tensor) -> torch.Tensor:
    """Pack [..., 2n] uint8, each 0..15, to [..., n] uint8, contiguous."""
    return codes[..., 0::2] | (codes[..., 1::2] << 4)
