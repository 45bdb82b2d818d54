"""Packing of 4-bit codes, two per byte, and of 2-bit codes (crumbs), four per byte; the first column is in the lowest
bits. All formats are converted to these."""

import torch


def unpack_nibbles(packed: torch.Tensor) -> torch.Tensor:
    """Unpack [..., n] uint8 to [..., 2n] uint8, each 0..15."""
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2)


def pack_nibbles(codes: torch.Tensor) -> torch.Tensor:
    """Pack [..., 2n] uint8, each 0..15, to [..., n] uint8, contiguous."""
    return codes[..., 0::2] | (codes[..., 1::2] << 4)


def unpack_crumbs(packed: torch.Tensor) -> torch.Tensor:
    """Unpack [..., n] uint8 to [..., 4n] uint8, each 0..3."""
    return torch.stack([packed >> shift & 3 for shift in (0, 2, 4, 6)], dim=-1).flatten(-2)


def pack_crumbs(codes: torch.Tensor) -> torch.Tensor:
    """Pack [..., 4n] uint8, each 0..3, to [..., n] uint8, contiguous."""
    return codes[..., 0::4] | codes[..., 1::4] << 2 | codes[..., 2::4] << 4 | codes[..., 3::4] << 6
