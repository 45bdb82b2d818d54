"""Codes of quantized keys and values: their definition in torch, and the layers that take none."""

import math

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


def has_spread_keys(code_dtype: torch.dtype | None, *, has_values: bool) -> bool:
    """Whether keys are multiplied by `hadamard_heads` before they become codes, and queries before their products with
    them. has_values: whether values are stored beside the keys; keys that values are a part of stay as they are.

    8-bit floats lose by it, since each of their numbers has an error in proportion to its own size.
    """
    return code_dtype == torch.int8 and has_values


def hadamard_heads(x: torch.Tensor) -> torch.Tensor:
    """Return x [..., D] in fp32, with each block of n numbers of a head multiplied by the Hadamard matrix over sqrt(n).

    n is the largest power of two that divides D, a multiple of 16. The matrix is orthogonal, so products of queries and
    keys that are both multiplied by it stay as they are. A key's few large channels, which would set its scale, are
    spread over all of its numbers (QuaRot, arXiv:2404.00456). The sums have the order of the C++ kernels'.
    """
    size = x.shape[-1]
    n = size & -size
    signs = torch.tensor(
        [[-1.0 if (i & j).bit_count() % 2 else 1.0 for j in range(16)] for i in range(16)], device=x.device
    )
    pieces = x.to(torch.float32).unflatten(-1, (-1, 16))
    total = pieces[..., :1] * signs[0]
    for i in range(1, 16):
        total = total + pieces[..., i : i + 1] * signs[i]
    half = 1  # pieces of 16
    while 16 * half < n:
        first, second = total.unflatten(-2, (-1, 2, half)).unbind(-3)
        total = torch.stack((first + second, first - second), dim=-3).flatten(-4, -2)
        half *= 2
    return total.flatten(-2) * (1.0 / math.sqrt(n))


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
