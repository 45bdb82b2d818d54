"""Quantized keys and values on a GPU: what is written, against its definition in torch, and attention to it."""

import pytest
import torch

import models.kernels.triton.attend  # noqa: F401  its kernels are defined before they are interpreted
from models.architecture.attention import AttentionSpec
from models.architecture.kv_layout import LARGEST_CODES
from models.attention.base import AttentionBackend
from models.attention.kv_codes import Codes
from models.attention.reference import ReferenceAttention
from models.attention.rotary import RotaryEmbedding
from models.attention.triton import TritonAttention
from models.batch import KVGroupBatch
from models.kernels.row_input import Elementwise, InputKind
from models.kv.layer import LayerKV
from tests.helpers.gpu.compile import launches
from tests.helpers.gpu.interpreter import interpreting
from tests.models.kernels.paged_batches import full_kv
from tests.models.kernels.test_rows import normal
from tests.models.kernels.triton.test_attend import DECODES, MIXED, Lengths, check_attention
from tests.models.kernels.triton.test_rope_write import head_norm

INT8, E4M3, E5M2 = LARGEST_CODES
GROUP = KVGroupBatch(torch.tensor([9, -1, 20]), torch.zeros(1, 1), 16)  # of the second row, nothing is written
KEPT, KEPT_SLOTS = torch.tensor([0, 2]), torch.tensor([9, 20])
SPEC = AttentionSpec(4, 2, 64, 0.1)


def _whole_numbers(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Numbers whose sums are exact in any order, so that codes are, too."""
    return torch.randint(-40, 41, shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def _written(backend: AttentionBackend, spec: AttentionSpec, kv_dtype: torch.dtype, k, v, **options) -> LayerKV:
    """A cache of two blocks of NaN with the rows, of which the reference gets only those that are kept."""
    kv = full_kv(backend, spec, 2, 16, k.dtype, float("nan"), kv_dtype)
    kv.key_center = options.get("center")
    if isinstance(backend, ReferenceAttention):
        rows = KVGroupBatch(KEPT_SLOTS, GROUP.block_tables, 16)
        backend.write(kv, k[KEPT], None if v is None else v[KEPT], rows)
    else:
        with interpreting():
            backend.write(kv, k, v, GROUP)
    return kv


def _codes(kv: LayerKV, name: str, spec: AttentionSpec) -> Codes:
    """All slots of a cache in the back end's layout, as the reference stores them."""
    has_values, heads = spec.values_from is None, spec.num_kv_heads
    keys = 16 * heads * spec.head_dim
    codes, scales = kv.parts["kv"], kv.parts["kv_scale"]
    if name == "k":
        codes, scales = codes[:, :keys], scales[:, : 16 * heads]
    else:
        assert has_values
        codes, scales = codes[:, keys:], scales[:, 16 * heads : 32 * heads]
    bytes_ = codes.unflatten(1, (heads, 16, -1)).transpose(1, 2).flatten(0, 1)
    return Codes(bytes_, scales.unflatten(1, (heads, 16, 1)).transpose(1, 2).flatten(0, 1))


def _assert_same(got: LayerKV, want: LayerKV, spec: AttentionSpec) -> None:
    for name in ("k", "v") if spec.values_from is None else ("k",):
        codes, scales = _codes(got, name, spec)[:2]
        assert torch.equal(codes, want.parts[name].view(torch.uint8)), name
        kept = scales[KEPT_SLOTS], want.parts[f"{name}_scale"][KEPT_SLOTS][..., :1]
        assert torch.equal(*kept), name
        assert int(scales.isnan().sum()) == scales.numel() - kept[0].numel()


@pytest.mark.parametrize("kv_dtype", [INT8, E4M3, E5M2], ids=str)
@pytest.mark.parametrize(
    ("heads", "size", "value_size"), [(2, 64, 64), (1, 80, 48), (5, 32, 32)], ids=["plain", "sizes", "heads"]
)
def test_codes_and_scales_are_those_of_the_definition(
    heads: int, size: int, value_size: int, kv_dtype: torch.dtype
) -> None:
    spec = AttentionSpec(heads, heads, size, 0.1, value_size=value_size)
    k, v = _whole_numbers(3, heads, size, dtype=torch.bfloat16), _whole_numbers(3, heads, value_size) / 3
    k[2, 0] *= 3.0
    v[2, -1] = 0.0  # a head without numbers
    v, center = v.bfloat16(), _whole_numbers(heads, size) / 4
    got, want = (
        _written(backend, spec, kv_dtype, k, v, center=center)
        for backend in (TritonAttention(90), ReferenceAttention())
    )
    _assert_same(got, want, spec)


@pytest.mark.parametrize("kv_dtype", [INT8, E4M3], ids=str)
def test_keys_that_values_are_a_part_of_are_not_spread(kv_dtype: torch.dtype) -> None:
    spec, k = AttentionSpec(4, 1, 48, 0.1, values_from=16), _whole_numbers(3, 1, 48)
    _assert_same(*(_written(b, spec, kv_dtype, k, None) for b in (TritonAttention(90), ReferenceAttention())), spec)


def test_8_bit_floats_take_heads_of_any_size() -> None:
    spec, k, v = AttentionSpec(1, 1, 20, 0.1), _whole_numbers(3, 1, 20), _whole_numbers(3, 1, 20)
    _assert_same(*(_written(b, spec, E5M2, k, v) for b in (TritonAttention(90), ReferenceAttention())), spec)


@pytest.mark.parametrize("kv_dtype", [INT8, E4M3, E5M2], ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_head_with_a_number_that_is_not_finite_has_such_a_scale(bad: float, kv_dtype: torch.dtype) -> None:
    k, v = _whole_numbers(2, 3, 2, 64)
    k[0, 1, 17] = v[2, 0, 33] = bad
    kv = _written(TritonAttention(90), SPEC, kv_dtype, k, v)
    assert _codes(kv, "k", SPEC).scales[KEPT_SLOTS].isfinite().flatten().tolist() == [True, False, True, True]
    assert _codes(kv, "v", SPEC).scales[KEPT_SLOTS].isfinite().flatten().tolist() == [True, True, False, True]


@pytest.mark.parametrize("kv_dtype", [INT8, E4M3], ids=str)
@pytest.mark.parametrize(
    ("kind", "half"), [(None, 32), (InputKind.RMS_NORM, 16), (InputKind.LAYER_NORM, 24)], ids=["plain", "rms", "layer"]
)
def test_one_kernel_norms_rotates_and_quantizes(kind: InputKind | None, half: int, kv_dtype: torch.dtype) -> None:
    q, k, v = (normal(3, heads, 64, seed=heads) for heads in (4, 2, 2))
    rotary = RotaryEmbedding(*normal(2, 3, half, seed=5), normal(3, seed=6))
    norms = None
    if kind is not None:
        q_norm, k_norm = (Elementwise(head_norm(kind, 64, heads, heads), lambda x: x) for heads in (4, 2))
        norms = q_norm, k_norm
    backend, center = TritonAttention(90), normal(2, 64, seed=8)

    def write(kv: LayerKV) -> torch.Tensor:
        return backend.rotate_and_write(kv, q, k, v, rotary, GROUP, norms)

    exact, coded = (full_kv(backend, SPEC, 2, 16, value=float("nan"), kv_dtype=each) for each in (None, kv_dtype))
    coded.key_center = center
    assert len(launches(lambda: write(coded))) == 1
    with interpreting():
        assert torch.equal(write(coded), write(exact))

    stored = exact.parts["kv"].unflatten(1, (2, 2, 16, 64))[
        KEPT_SLOTS // 16, :, :, KEPT_SLOTS % 16
    ]  # [rows, k/v, heads, D]
    rows = KVGroupBatch(KEPT_SLOTS, GROUP.block_tables, 16)
    reference = ReferenceAttention()
    want = full_kv(reference, SPEC, 2, 16, value=float("nan"), kv_dtype=kv_dtype)
    want.key_center = center
    reference.write(want, stored[:, 0].contiguous(), stored[:, 1].contiguous(), rows)
    for name in ("k", "v"):
        expected = Codes(want.parts[name][KEPT_SLOTS], want.parts[f"{name}_scale"][KEPT_SLOTS][..., :1])
        codes, scales = (part[KEPT_SLOTS] for part in _codes(coded, name, SPEC)[:2])
        assert torch.equal(scales, expected.scales)
        errors = (Codes(codes.view(kv_dtype), scales).numbers() - expected.numbers()).abs()
        assert int((errors > 0).sum()) <= 1  # a number between two codes, whose sums have another order
        assert float(errors.max()) <= LARGEST_CODES[kv_dtype] / 8


@pytest.mark.parametrize(
    ("kv_dtype", "dtype"),
    [(INT8, torch.float32), (INT8, torch.bfloat16), (E4M3, torch.bfloat16), (E5M2, torch.float32)],
    ids=str,
)
@pytest.mark.parametrize("lengths", [DECODES, MIXED], ids=["decodes", "mixed"])
def test_attention_to_codes_equals_reference(lengths: list[Lengths], dtype: torch.dtype, kv_dtype: torch.dtype) -> None:
    check_attention(AttentionSpec(4, 2, 64, 0.125), lengths, dtype, kv_dtype=kv_dtype)


@pytest.mark.parametrize("lengths", [DECODES, MIXED], ids=["decodes", "mixed"])
@pytest.mark.parametrize(
    ("spec", "kv_dtype"),
    [
        (AttentionSpec(3, 1, 80, 0.1, value_size=48, sliding_window=33, logit_softcap=20.0, has_alibi=True), INT8),
        (AttentionSpec(4, 2, 72, 0.1, chunk=19, has_sinks=True, value_scale=0.7), E4M3),
    ],
    ids=["window", "chunk"],
)
def test_attention_to_codes_equals_reference_over_options(
    spec: AttentionSpec, kv_dtype: torch.dtype, lengths: list[Lengths]
) -> None:
    check_attention(spec, lengths, kv_dtype=kv_dtype)


def test_spread_queries_keep_their_small_numbers() -> None:
    """One channel is far larger than the others: spread, and rounded to bf16 once, a query would lose those."""
    check_attention(AttentionSpec(2, 1, 128, 0.1), DECODES, torch.bfloat16, kv_dtype=INT8, large_channel=3000.0)


def test_codes_and_their_scales_take_half_the_memory() -> None:
    backend = TritonAttention(90)
    layout = backend.layout(AttentionSpec(32, 8, 128, 0.1), torch.bfloat16, INT8)
    assert layout.position_bytes == 8 * 2 * (128 + 2 * 2)
    assert layout.code_dtype == INT8
    other = backend.layout(AttentionSpec(32, 4, 256, 0.1), torch.bfloat16, INT8)  # may share blocks
    assert [part.num_bytes for part in other.parts] == [part.num_bytes for part in layout.parts]
