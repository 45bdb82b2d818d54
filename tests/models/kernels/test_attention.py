"""The C++ attention kernel against the reference back end, on every instruction-set level."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from models.architecture.attention import AttentionSpec
from models.attention.cpu import CpuAttention
from models.attention.reference import ReferenceAttention
from models.batch import DistanceBias
from models.kernels.cpu.library import KernelLibrary
from tests.models.kernels.paged_batches import Lengths, filled_kv, paged_batch

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1.5e-2}  # of values near 1; bf16 has 8 bits, out and weights rounded

# prefill from nothing, decode, a chunk behind a context, one token, a long decode (split), a short verify pass
MIXED = [Lengths(37, 37), Lengths(1, 70), Lengths(9, 100), Lengths(1, 1), Lengths(1, 1300), Lengths(4, 611)]


def _check(
    kernels: KernelLibrary,
    spec: AttentionSpec,
    lengths: list[Lengths],
    dtype: torch.dtype = torch.float32,
    block_size: int = 16,
    tolerance: float | None = None,
    distance_bias: DistanceBias | None = None,
    kv_dtype: torch.dtype | None = None,
) -> None:
    tolerance = tolerance or TOLERANCE[dtype]
    generator = torch.Generator().manual_seed(0)
    batch, num_blocks = paged_batch(lengths, block_size, generator)
    batch = dataclasses.replace(batch, distance_bias=distance_bias)
    total = sum(item.context for item in lengths)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    k, v = normal(total, spec.num_kv_heads, spec.head_dim), normal(total, spec.num_kv_heads, spec.value_dim)
    v = None if spec.values_from is not None else v
    fused = normal(sum(batch.query_lens), (spec.num_heads + 2) * spec.head_dim)  # q is a view of a fused projection
    q = fused[:, : spec.num_heads * spec.head_dim].unflatten(1, (spec.num_heads, spec.head_dim))
    extras = {
        "alibi_slopes": 2.0 ** -torch.arange(1, spec.num_heads + 1) if spec.has_alibi else None,
        "sinks": torch.randn(spec.num_heads, generator=generator) * 3 if spec.has_sinks else None,
    }
    native, reference = CpuAttention(kernels), ReferenceAttention()
    assert native.unsupported(spec, dtype, kv_dtype or dtype, torch.device("cpu")) is None

    kv = filled_kv(native, spec, num_blocks, batch, k, v, kv_dtype)
    got = native.forward(q, kv, batch, batch.groups[0], spec, **extras)
    truth_kv = filled_kv(reference, spec, num_blocks, batch, k.float(), None if v is None else v.float(), kv_dtype)
    want = reference.forward(q.float(), truth_kv, batch, batch.groups[0], spec, **extras)

    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), want, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(9, 3, 64), (14, 2, 64), (4, 4, 16), (5, 1, 80), (8, 2, 128)])
def test_attention_equals_reference_over_head_shapes(
    kernels: KernelLibrary, heads: int, kv_heads: int, dim: int, dtype: torch.dtype
) -> None:
    _check(kernels, AttentionSpec(heads, kv_heads, dim, dim**-0.5), MIXED, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "kv_heads", "dim", "values_from"), [(40, 1, 576, 64), (6, 2, 48, 16), (3, 3, 32, 0)])
@pytest.mark.parametrize("block_size", [4, 16])
def test_attention_with_values_in_its_keys_equals_reference(
    kernels: KernelLibrary, heads: int, kv_heads: int, dim: int, values_from: int, block_size: int, dtype: torch.dtype
) -> None:
    _check(kernels, AttentionSpec(heads, kv_heads, dim, dim**-0.5, values_from=values_from), MIXED, dtype, block_size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("dim", "value_size"), [(192, 128), (48, 16), (16, 80)])
@pytest.mark.parametrize("block_size", [4, 16])
def test_attention_with_values_of_another_size_equals_reference(
    kernels: KernelLibrary, dim: int, value_size: int, block_size: int, dtype: torch.dtype
) -> None:
    spec = AttentionSpec(6, 2, dim, dim**-0.5, value_size=value_size, value_scale=0.7, has_sinks=True)
    _check(kernels, spec, MIXED, dtype, block_size)


@pytest.mark.parametrize("block_size", [1, 4, 16, 24, 32])
def test_attention_equals_reference_over_block_sizes(kernels: KernelLibrary, block_size: int) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        _check(kernels, AttentionSpec(6, 2, 32, 0.2), MIXED, dtype, block_size)


@pytest.mark.parametrize(
    "options",
    [
        {"sliding_window": 1},
        {"sliding_window": 33},
        {"sliding_window": 700},
        {"chunk": 1},
        {"chunk": 40},
        {"chunk": 610, "has_alibi": True},
        {"logit_softcap": 5.0},
        {"has_alibi": True},
        {"has_sinks": True},
        {"sliding_window": 48, "logit_softcap": 20.0, "has_alibi": True, "has_sinks": True, "values_from": 16},
    ],
)
def test_attention_equals_reference_over_options(kernels: KernelLibrary, options: dict[str, float]) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        _check(kernels, AttentionSpec(6, 3, 64, 0.3, **options), MIXED, dtype, block_size=16)


@pytest.mark.parametrize("window", [None, 1, 9, 65])
@pytest.mark.parametrize("block_size", [16, 24])
def test_attention_that_is_not_causal_equals_reference(
    kernels: KernelLibrary, window: int | None, block_size: int
) -> None:
    texts = [Lengths(count, count) for count in (37, 1, 130, 16, 25)]
    spec = AttentionSpec(6, 3, 32, 0.3, sliding_window=window, is_causal=False)
    for dtype in (torch.float32, torch.bfloat16):
        _check(kernels, spec, texts, dtype, block_size)


@pytest.mark.parametrize("window", [None, 1, 9, 65])
def test_attention_that_is_not_causal_is_that_of_torch(kernels: KernelLibrary, window: int | None) -> None:
    texts = [Lengths(count, count) for count in (37, 1, 130)]
    spec = AttentionSpec(4, 4, 32, 0.3, sliding_window=window, is_causal=False)
    generator = torch.Generator().manual_seed(0)
    batch, num_blocks = paged_batch(texts, 16, generator)
    q, k, v = torch.randn(3, sum(batch.query_lens), 4, 32, generator=generator)
    for backend in (CpuAttention(kernels), ReferenceAttention()):
        kv = filled_kv(backend, spec, num_blocks, batch, k, v)
        got = backend.forward(q, kv, batch, batch.groups[0], spec).split(batch.query_lens)
        for rows, *heads in zip(got, *(part.split(batch.query_lens) for part in (q, k, v)), strict=True):
            positions = torch.arange(len(rows))
            mask = None if window is None else (positions[:, None] - positions).abs() < window
            want = F.scaled_dot_product_attention(*(part.transpose(0, 1) for part in heads), attn_mask=mask, scale=0.3)
            torch.testing.assert_close(rows, want.transpose(0, 1), atol=1e-5, rtol=1e-5)


def test_attention_survives_large_logits(kernels: KernelLibrary) -> None:
    # logits near 1,000, whose last fp32 bit is 6e-5
    _check(kernels, AttentionSpec(6, 3, 64, 40.0), MIXED, tolerance=1e-4)


def test_attention_of_a_sequence_does_not_depend_on_its_batch(kernels: KernelLibrary) -> None:
    spec, backend = AttentionSpec(6, 2, 64, 0.125), CpuAttention(kernels)
    generator = torch.Generator().manual_seed(1)
    batch, num_blocks = paged_batch(MIXED, 16, generator)
    total = sum(batch.context_lens)
    k, v = torch.randn(2, total, 2, 64, generator=generator)
    q = torch.randn(sum(batch.query_lens), 6, 64, generator=generator)
    together = backend.forward(q, filled_kv(backend, spec, num_blocks, batch, k, v), batch, batch.groups[0], spec)
    row = start = 0
    for item in MIXED:
        alone, blocks = paged_batch([item], 16, generator)
        span = slice(start, start + item.context)
        kv = filled_kv(backend, spec, blocks, alone, k[span], v[span])
        got = backend.forward(q[row : row + item.rows], kv, alone, alone.groups[0], spec)
        assert torch.equal(got, together[row : row + item.rows])
        row, start = row + item.rows, start + item.context


@pytest.mark.parametrize(
    ("spec", "dtype", "device", "reason"),
    [
        (AttentionSpec(4, 4, 64, 1.0), torch.float16, "cpu", "float16"),
        (AttentionSpec(4, 4, 64, 1.0), torch.float32, "cuda", "cuda"),
        (AttentionSpec(4, 4, 60, 1.0), torch.float32, "cpu", "60"),
        (AttentionSpec(4, 4, 592, 1.0), torch.float32, "cpu", "592"),
        (AttentionSpec(4, 1, 64, 1.0, values_from=8), torch.float32, "cpu", "56"),
    ],
)
def test_attention_refuses_what_it_cannot_do(spec: AttentionSpec, dtype: torch.dtype, device: str, reason: str) -> None:
    message = CpuAttention().unsupported(spec, dtype, dtype, torch.device(device))
    assert message is not None
    assert reason in message


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("block_size", [16, 8])
@pytest.mark.parametrize("is_causal", [True, False])
def test_bias_by_distance_equals_reference(
    kernels: KernelLibrary, is_causal: bool, block_size: int, dtype: torch.dtype
) -> None:
    lengths = [Lengths(37, 37), Lengths(1, 1), Lengths(200, 200), Lengths(5, 61)]
    table = 3 * torch.randn(4, 2 * DistanceBias.MARGIN + 2 * 199 + 1, generator=torch.Generator().manual_seed(1))
    spec = AttentionSpec(4, 2, 32, 32**-0.5, is_causal=is_causal)
    _check(kernels, spec, lengths, dtype, block_size, distance_bias=DistanceBias(table, 199))
