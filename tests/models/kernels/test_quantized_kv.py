"""Codes of keys and values: the C++ kernels against the reference back end, on every instruction-set level."""

import pytest
import torch

from models.architecture.attention import AttentionSpec
from models.architecture.kv_layout import CODE_DTYPES, LARGEST_CODES
from models.attention.base import AttentionBackend
from models.attention.cpu import CpuAttention
from models.attention.kv_codes import hadamard_heads, quantize_heads
from models.attention.reference import ReferenceAttention
from models.attention.rotary import RotaryEmbedding, rotate
from models.batch import KVGroupBatch
from models.kernels.cpu.library import KernelLibrary
from models.kv.layer import LayerKV
from tests.models.kernels.paged_batches import Lengths, filled_kv, full_kv, paged_batch
from tests.models.kernels.test_attention import MIXED, _check

CODES = list(CODE_DTYPES)
DTYPES = [torch.float32, torch.bfloat16]
SPECS = {
    "plain": AttentionSpec(9, 3, 64, 0.125),
    "values of another size": AttentionSpec(8, 2, 128, 0.1, value_size=80, value_scale=0.7, has_sinks=True),
    "window": AttentionSpec(6, 2, 48, 0.15, sliding_window=33, logit_softcap=20.0, has_alibi=True),
    "chunk": AttentionSpec(6, 2, 16, 0.3, chunk=40),
    "latent": AttentionSpec(16, 1, 192, 0.1, values_from=64),
}


def _stored(kv: LayerKV, spec: AttentionSpec) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Codes [slots, K, size] and scales [slots, K, 1] of keys and values in a cache of the C++ kernels."""
    parts, start = [], 0
    heads, code_dtype = kv.parts["kv"], kv.layout.code_dtype
    assert code_dtype is not None
    if code_dtype == torch.int4:
        return _stored_int4(heads, spec)
    scales_start = 16 * (spec.head_dim + spec.value_dim)
    pack = 4 if code_dtype == torch.int8 else 2
    for size, order in ((spec.head_dim, (0, 3, 1, 2, 4)), (spec.value_dim, (0, 2, 4, 1, 3))):
        codes = heads[:, :, start : start + 16 * size]
        shape = (size // pack, 16, pack) if start == 0 else (16 // pack, size, pack)
        codes = codes.unflatten(2, shape).permute(order).flatten(0, 1 if start == 0 else 2)
        codes = codes ^ 0x80 if code_dtype == torch.int8 else codes  # stored plus 128
        codes = codes.reshape(len(heads) * 16, -1, size).view(code_dtype)
        parts.append((codes.to(torch.float32), _scales(heads, scales_start)))
        start, scales_start = start + 16 * size, scales_start + 32 * max(1, size // 64)
    return parts


def _scales(heads: torch.Tensor, start: int) -> torch.Tensor:
    scales = heads[:, :, start : start + 32].contiguous().view(torch.bfloat16).transpose(1, 2)
    return scales.flatten(0, 1).unsqueeze(2)


def _stored_int4(heads: torch.Tensor, spec: AttentionSpec) -> list[tuple[torch.Tensor, torch.Tensor]]:
    keys_end, end = 8 * spec.head_dim, 8 * (spec.head_dim + spec.value_dim)

    def halves(codes: torch.Tensor, dim: int) -> torch.Tensor:
        return torch.stack((codes & 15, codes >> 4), dim)

    keys = halves(heads[:, :, :keys_end].unflatten(2, (-1, 16, 4)), 5)  # [tiles, K, D / 8, 16, 4, 2]
    steps = halves(heads[:, :, end : end + spec.head_dim].unflatten(2, (-1, 16)), 3).flatten(2, 3)  # [.., D / 8, 16]
    steps = steps[..., None, None].to(torch.float32)
    k = (keys - torch.where(steps < 8, 8, 7)) * (steps % 8 + 1)
    values = halves(heads[:, :, keys_end:end].unflatten(2, (4, -1, 4)), 3)  # [tiles, K, 4, 2, V / 2, 4]
    k = k.permute(0, 3, 1, 2, 5, 4).flatten(0, 1).flatten(2)
    v = values.permute(0, 2, 5, 1, 3, 4).flatten(0, 2).flatten(2).to(torch.float32) - 8
    start = end + spec.head_dim
    return [(k, _scales(heads, start)), (v, _scales(heads, start + 32 * max(1, spec.head_dim // 64)))]


@pytest.mark.parametrize("kv_dtype", CODES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_codes_and_scales_are_those_of_torch(kernels: KernelLibrary, dtype: torch.dtype, kv_dtype: torch.dtype) -> None:
    spec, backend = AttentionSpec(4, 2, 128, 1.0, value_size=48), CpuAttention(kernels)
    generator = torch.Generator().manual_seed(0)
    slots = torch.randperm(48, generator=generator)
    k = torch.randn(48, 2, 128, generator=generator)
    v = torch.randn(48, 2, 48, generator=generator)
    sizes = 10.0 ** torch.linspace(-40, 30, 48)[:, None, None]
    k, v = (k * k.abs() ** 3 * sizes).to(dtype), v.to(dtype)  # ratios within a head that 8-bit floats do not span
    k[3, 0], k[4, 1] = 0.0, torch.arange(128).to(dtype)
    kv = full_kv(backend, spec, 3, 16, dtype, kv_dtype=kv_dtype)

    backend.write(kv, k, v, KVGroupBatch(slots, torch.zeros(1, 1), 16))

    keys = hadamard_heads(k) if kv_dtype in (torch.int8, torch.int4) else k
    values = hadamard_heads(v) if kv_dtype == torch.int4 else v
    for rows, (codes, scales) in zip((keys, values), _stored(kv, spec), strict=True):
        want = quantize_heads(rows, kv_dtype, is_key=rows is keys)
        assert torch.equal(scales[slots], want.scales)
        assert torch.equal(codes[slots], want.numbers())


@pytest.mark.parametrize("kv_dtype", CODES, ids=str)
def test_a_center_is_subtracted_from_keys(kernels: KernelLibrary, kv_dtype: torch.dtype) -> None:
    spec, backend = AttentionSpec(4, 2, 48, 1.0), CpuAttention(kernels)
    k, v = torch.randn(2, 20, 2, 48, generator=torch.Generator().manual_seed(0)).bfloat16()
    center = torch.linspace(-30, 30, 96).view(2, 48)
    kv = full_kv(backend, spec, 2, 16, torch.bfloat16, kv_dtype=kv_dtype)
    kv.key_center = center

    backend.write(kv, k, v, KVGroupBatch(torch.arange(20), torch.zeros(1, 1), 16))

    less = k.float() - center
    keys = hadamard_heads(less) if kv_dtype in (torch.int8, torch.int4) else less
    want = quantize_heads(keys, kv_dtype, is_key=True)
    codes, scales = _stored(kv, spec)[0]
    assert torch.equal(scales[:20], want.scales)
    assert torch.equal(codes[:20], want.numbers())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("kv_dtype", CODES, ids=str)
def test_a_head_with_a_number_that_is_not_finite_has_such_a_scale(
    kernels: KernelLibrary, kv_dtype: torch.dtype, bad: float
) -> None:
    spec, backend = AttentionSpec(2, 2, 32, 1.0), CpuAttention(kernels)
    rows = torch.ones(1, 2, 32)
    rows[0, 1, 17] = bad
    kv = full_kv(backend, spec, 1, 16, kv_dtype=kv_dtype)

    backend.write(kv, rows, rows, KVGroupBatch(torch.tensor([5]), torch.zeros(1, 1), 16))

    for scales in (*(scales[5] for _, scales in _stored(kv, spec)), quantize_heads(rows, kv_dtype).scales[0]):
        assert scales.isfinite().flatten().tolist() == [True, False]


@pytest.mark.parametrize("kv_dtype", CODES, ids=str)
def test_keys_are_rotated_before_they_are_quantized(kernels: KernelLibrary, kv_dtype: torch.dtype) -> None:
    spec, backend = AttentionSpec(4, 2, 48, 1.0), CpuAttention(kernels)
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(20, 8, 48, generator=generator).split((4, 2, 2), dim=1)
    angles = torch.randn(20, 12, generator=generator)
    rotary = RotaryEmbedding(angles.cos(), angles.sin())
    group = KVGroupBatch(torch.arange(3, 23), torch.zeros(1, 1), 16)
    kv, want = (full_kv(backend, spec, 2, 16, kv_dtype=kv_dtype) for _ in range(2))
    backend.write(want, rotate(k, rotary), v, group)

    backend.rotate_and_write(kv, q, k.clone(), v, rotary, group)

    for (codes, scales), (want_codes, want_scales) in zip(_stored(kv, spec), _stored(want, spec), strict=True):
        numbers, want_numbers = codes.float() * scales.float(), want_codes.float() * want_scales.float()
        steps = {torch.int8: 1.01, torch.int4: 8.1}  # in scales
        step = want_scales.float().abs().max() * steps.get(kv_dtype, LARGEST_CODES.get(kv_dtype, 0.0) / 4)
        torch.testing.assert_close(numbers, want_numbers, atol=float(step), rtol=0.0)  # a rounding may differ
        assert (numbers != want_numbers).float().mean() < 0.01


@pytest.mark.parametrize("kv_dtype", CODES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", list(SPECS))
def test_attention_over_codes_equals_reference(
    kernels: KernelLibrary, name: str, dtype: torch.dtype, kv_dtype: torch.dtype
) -> None:
    _check(kernels, SPECS[name], MIXED, dtype, block_size=4 if name == "chunk" else 16, kv_dtype=kv_dtype)


class _Rows:
    """Random bf16 queries, keys and values of three rows at the end of 300 positions."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.spec = AttentionSpec(4, 2, 64, 0.125)
        self._batch, self._num_blocks = paged_batch([Lengths(3, 300)], 16, generator)
        self.q = torch.randn(3, 4, 64, generator=generator)
        self.k, self.v = torch.randn(2, 300, 2, 64, generator=generator)

    def attend(self, backend: AttentionBackend, dtype: torch.dtype, kv_dtype: torch.dtype) -> torch.Tensor:
        q, k, v = (rows.bfloat16().to(dtype) for rows in (self.q, self.k, self.v))
        group = self._batch.groups[0]
        assert isinstance(group, KVGroupBatch)
        kv = filled_kv(backend, self.spec, self._num_blocks, self._batch, k, v, kv_dtype)
        return backend.forward(q, kv, self._batch, group, self.spec).float()


def test_int8_keeps_the_small_numbers_of_a_query_beside_a_large_one(kernels: KernelLibrary) -> None:
    rows = _Rows()
    rows.q[..., 5] *= 100
    rows.k[..., 5] /= 100  # as large in a score as any other

    got = rows.attend(CpuAttention(kernels), torch.bfloat16, torch.int8)
    want = rows.attend(ReferenceAttention(), torch.float32, torch.int8)

    assert (got - want).norm() < 0.005 * want.norm()


def test_int8_keeps_the_small_channels_of_a_key_beside_a_large_one(kernels: KernelLibrary) -> None:
    """Keys of Qwen2.5 have a channel that is a hundred times as large as others."""
    rows, backend = _Rows(), CpuAttention(kernels)
    rows.k[..., 5] = 150.0  # adds nearly the same to all scores

    got, want = (rows.attend(backend, torch.bfloat16, dtype) for dtype in (torch.int8, torch.bfloat16))

    assert (got - want).norm() < 0.1 * want.norm()


@pytest.mark.parametrize("size", [16, 48, 64, 96, 128])
def test_the_hadamard_matrix_leaves_products_as_they_are(size: int) -> None:
    q, k = torch.randn(2, 5, 3, size, generator=torch.Generator().manual_seed(0))

    spread = hadamard_heads(q)

    torch.testing.assert_close((spread * hadamard_heads(k)).sum(-1), (q * k).sum(-1), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(hadamard_heads(spread), q, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(spread, q, atol=0.1)


@pytest.mark.parametrize(
    ("spec", "kv_dtype"),
    [
        (AttentionSpec(4, 1, 24, 1.0), torch.int8),
        (AttentionSpec(4, 1, 32, 1.0, value_size=24), torch.int4),
        (AttentionSpec(4, 1, 24, 1.0, values_from=16), torch.int4),
    ],
)
def test_whole_numbers_of_odd_heads_are_refused(spec: AttentionSpec, kv_dtype: torch.dtype) -> None:
    message = ReferenceAttention().unsupported(spec, torch.float32, kv_dtype, torch.device("cpu"))
    assert message is not None
    assert "multiple of 16 numbers, not 24" in message
    assert ReferenceAttention().unsupported(spec, torch.float32, torch.float8_e5m2, torch.device("cpu")) is None


@pytest.mark.parametrize("spec", [AttentionSpec(4, 1, 64, 1.0, values_from=16, reuses_choice=True)])
def test_choices_of_an_indexer_are_refused(spec: AttentionSpec) -> None:
    message = CpuAttention().unsupported(spec, torch.bfloat16, torch.int8, torch.device("cpu"))
    assert message is not None
    assert "indexer" in message
