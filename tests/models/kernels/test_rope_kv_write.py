"""The C++ kernel of rotary embedding and KV store against the plain torch rotation."""

import dataclasses

import pytest
import torch

from models.architecture.attention import AttentionSpec
from models.attention.cpu import CpuAttention
from models.attention.rotary import RotaryEmbedding, rotate, scale_queries
from models.batch import KVGroupBatch
from models.kernels.cpu.library import KernelLibrary
from tests.models.kernels.paged_batches import Lengths, full_kv, paged_batch

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2**-8}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "value_size", "rotary_dim"),
    [(9, 3, 64, 64, 64), (4, 2, 80, 80, 40), (3, 1, 16, 16, 6), (4, 2, 48, 32, 16)],
)
@pytest.mark.parametrize("rows", [1, 5, 37])
def test_rotate_and_write_equals_torch(
    kernels: KernelLibrary,
    heads: int,
    kv_heads: int,
    dim: int,
    value_size: int,
    rotary_dim: int,
    rows: int,
    dtype: torch.dtype,
) -> None:
    generator = torch.Generator().manual_seed(0)
    backend, spec = CpuAttention(kernels), AttentionSpec(heads, kv_heads, dim, 1.0, value_size=value_size)
    batch, num_blocks = paged_batch([Lengths(rows, rows + 20), Lengths(1, 40)], 8, generator)
    angles = torch.outer(batch.positions.float(), torch.rand(rotary_dim // 2, generator=generator))
    rotary = RotaryEmbedding(angles.cos(), angles.sin())
    sizes = (heads * dim, kv_heads * dim, kv_heads * value_size)
    fused = torch.randn(rows + 1, sum(sizes), generator=generator).to(dtype).split(sizes, dim=1)
    q, k, v = (part.unflatten(1, (-1, size)) for part, size in zip(fused, (dim, dim, value_size), strict=True))
    want_q = rotate(q, rotary)
    want_kv, kv = (full_kv(backend, spec, num_blocks, 8, dtype) for _ in range(2))
    backend.write(want_kv, rotate(k, rotary), v, batch.groups[0])

    got_q = backend.rotate_and_write(kv, q, k, v, rotary, batch.groups[0])

    for got, want in ((got_q, want_q), (kv.parts["kv"], want_kv.parts["kv"])):
        torch.testing.assert_close(got, want, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rotary_dim", [0, 24])
def test_queries_are_scaled_by_row(kernels: KernelLibrary, rotary_dim: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    angles = torch.randn(5, rotary_dim // 2, generator=generator)
    rotary = RotaryEmbedding(angles.cos(), angles.sin(), 1 + torch.rand(5, generator=generator))
    q, k, v = torch.randn(5, 8, 48, generator=generator).to(dtype).split((4, 2, 2), dim=1)
    want_q, want_k = scale_queries(rotate(q, rotary), rotary), rotate(k, rotary)
    backend, group = CpuAttention(kernels), KVGroupBatch(torch.arange(5), torch.zeros(1, 1), 16)
    kv = full_kv(backend, AttentionSpec(4, 2, 48, 1.0), 1, 16, dtype)

    got_q = backend.rotate_and_write(kv, q, k, v, rotary, group)

    for got, want in ((got_q, want_q), (k, want_k)):
        torch.testing.assert_close(got, want, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_are_rotated_alone(kernels: KernelLibrary, dtype: torch.dtype) -> None:
    angles = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    rotary = RotaryEmbedding(angles.cos(), angles.sin(), torch.zeros(5))  # the factor comes later
    q, k = torch.randn(5, 6, 48, generator=torch.Generator().manual_seed(1)).to(dtype).split((4, 2), dim=1)
    want = rotate(q, rotary), rotate(k, rotary)

    got = CpuAttention(kernels).rotate_heads(q, k, rotary)

    torch.testing.assert_close(got, want, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keys_that_hold_values_are_stored_once(kernels: KernelLibrary, dtype: torch.dtype) -> None:
    spec = AttentionSpec(4, 1, 48, 1.0, values_from=16)
    backend, beside = CpuAttention(kernels), dataclasses.replace(spec, values_from=None)
    group = KVGroupBatch(torch.tensor([3, 17]), torch.zeros(1, 1, dtype=torch.int32), 16)
    rotary = RotaryEmbedding(*torch.randn(2, 2, 8, generator=torch.Generator().manual_seed(0)))
    q, k = torch.randn(2, 2, 4, 48, generator=torch.Generator().manual_seed(1)).to(dtype)
    k = k[:, :1]
    kv, both = (full_kv(backend, one, 2, 16, dtype) for one in (spec, beside))

    backend.rotate_and_write(both, q.clone(), k.clone(), k, rotary, group)
    backend.rotate_and_write(kv, q.clone(), k.clone(), None, rotary, group)

    assert torch.equal(kv.parts["kv"], both.parts["kv"][:, :, : 16 * 48])


def test_write_skips_negative_slots(kernels: KernelLibrary) -> None:
    backend = CpuAttention(kernels)
    kv = full_kv(backend, AttentionSpec(2, 2, 16, 1.0), 2, 16)
    rows = torch.ones(2, 2, 16)
    group = KVGroupBatch(torch.tensor([-1, 3]), torch.zeros(1, 1, dtype=torch.int32), 16)
    backend.write(kv, rows, rows, group)
    assert kv.parts["kv"].sum() == 2 * 2 * 16
