"""4-bit codes, two a byte with even columns in low nibbles: the layout that all formats are converted to."""

import torch


def unpack_nibbles(packed: torch.Tensor) -> torch.Tensor:
    """[..., n] uint8 -> [..., 2n] uint8, each 0..15."""
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2)


def pack_nibbles(codes: torch.Tensor) -> torch.Tensor:
    """[..., 2n] uint8, each 0..15 -> [..., n] uint8, contiguous."""
    return codes[..., 0::2] | (codes[..., 1::2] << 4)
