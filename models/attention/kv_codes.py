"""Codes of quantized keys and values: their definition in torch, and the layers that take none."""

import torch

from models.architecture.attention import AttentionSpec
from models.architecture.kv_layout import LARGEST_CODES, SCALE_DTYPE

_SMALLEST_SCALE = 1e-30  # its inverse is finite; a head of smaller numbers is stored as zeros


def quantized_kv_refusal(spec: AttentionSpec, kv_dtype: torch.dtype) -> str | None:
    """Return why no back end quantizes the keys and values of a layer to `kv_dtype`; None if it is possible, or if
    `kv_dtype` has no codes."""
    if kv_dtype in LARGEST_CODES and (spec.indexer is not None or spec.reuses_choice):
        return "keeps no codes of keys from which an indexer chooses, since their rounding would change the choice"
    return None


def quantize_heads(x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return codes of `dtype` and a scale for each head: x [T, K, D] ~ codes [T, K, D] * scales [T, K, 1].

    A head with a NaN or an infinite number has a scale that is not finite. The subnormal numbers of 8-bit floats are
    not used: they are below 4e-5 of a head's largest number, and kernels would need longer to read them.
    """
    x = x.to(torch.float32)
    largest = LARGEST_CODES[dtype]
    scales = (x.abs().amax(dim=-1, keepdim=True) / largest).to(SCALE_DTYPE).to(torch.float32)
    scales = torch.where(scales < _SMALLEST_SCALE, 0.0, scales)
    scaled = x * torch.where(scales == 0, 0.0, 1.0 / scales)
    scaled = scaled.clamp(-largest, largest)  # the scale was rounded, too
    if dtype.is_floating_point:
        scaled = torch.where(scaled.abs() < torch.finfo(dtype).smallest_normal, 0.0, scaled)
    else:
        scaled = scaled.round()
    return scaled.to(dtype), scales.to(SCALE_DTYPE)
