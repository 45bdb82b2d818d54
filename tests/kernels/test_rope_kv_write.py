"""The C++ kernel of rotary embedding and KV store against plain torch."""

import pytest
import torch

from models.attention.base import AttentionSpec
from models.attention.cpu import CpuAttention
from models.kernels.cpu.library import KernelLibrary
from models.kernels.rope import rope_and_write
from tests.kernels.paged_batches import Lengths, paged_batch

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2**-8}


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, is_interleaved: bool) -> torch.Tensor:
    """x: [T, heads, D]; cos, sin: [T, R / 2]."""
    pairs = cos.shape[1]
    turned, cos, sin = x[..., : 2 * pairs].float(), cos[:, None], sin[:, None]
    first, second = (turned[..., 0::2], turned[..., 1::2]) if is_interleaved else turned.chunk(2, dim=-1)
    a, b = first * cos - second * sin, second * cos + first * sin
    turned = torch.stack((a, b), dim=-1).flatten(-2) if is_interleaved else torch.cat((a, b), dim=-1)
    return torch.cat((turned.to(x.dtype), x[..., 2 * pairs :]), dim=-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_interleaved", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads", "dim", "rotary_dim"), [(9, 3, 64, 64), (4, 2, 80, 40), (3, 1, 16, 6)])
@pytest.mark.parametrize("rows", [1, 5, 37])
def test_rope_and_write_equals_torch(
    kernels: KernelLibrary,
    heads: int,
    kv_heads: int,
    dim: int,
    rotary_dim: int,
    rows: int,
    is_interleaved: bool,
    dtype: torch.dtype,
) -> None:
    generator = torch.Generator().manual_seed(0)
    backend, spec = CpuAttention(kernels), AttentionSpec(heads, kv_heads, dim, 1.0)
    batch, num_blocks = paged_batch([Lengths(rows, rows + 20), Lengths(1, 40)], 8, generator)
    angles = torch.outer(torch.arange(64.0), torch.rand(rotary_dim // 2, generator=generator))
    cos, sin = angles.cos(), angles.sin()
    fused = torch.randn(rows + 1, (heads + 2 * kv_heads) * dim, generator=generator).to(dtype)
    q, k, v = fused.unflatten(1, (-1, dim)).split((heads, kv_heads, kv_heads), dim=1)
    at = batch.positions
    want_q, want_k = (_rotated(x.clone(), cos[at], sin[at], is_interleaved) for x in (q, k))
    want_kv = torch.zeros(backend.kv_shape(spec, num_blocks, 8), dtype=dtype)
    kv = want_kv.clone()

    rope_and_write(
        q, k, v, at, cos, sin, kv, batch.groups[0].slot_mapping, is_interleaved=is_interleaved, library=kernels
    )
    backend.write(want_kv, want_k, v, batch.groups[0])

    for got, want in ((q, want_q), (k, want_k), (kv, want_kv)):
        torch.testing.assert_close(got, want, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_write_skips_negative_slots(kernels: KernelLibrary) -> None:
    kv = torch.zeros(CpuAttention(kernels).kv_shape(AttentionSpec(2, 2, 16, 1.0), 2, 16))
    k = torch.ones(2, 2, 16)
    cos = torch.zeros(1, 8)
    slots = torch.tensor([-1, 3])
    rope_and_write(k.clone(), k, k.clone(), torch.zeros(2, dtype=torch.int64), cos, cos, kv, slots, library=kernels)
    assert kv.sum() == 2 * 16  # one row of v; its k was turned by cos = sin = 0
