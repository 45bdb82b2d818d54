"""The attention back end for CUDA devices against the reference, by Triton's interpreter."""

import dataclasses
import itertools

import pytest
import torch

import models.kernels.triton.attend  # noqa: F401  its kernels are defined before they are interpreted
from models.architecture.attention import AttentionSpec, IndexerSpec
from models.architecture.kv_layout import CODE_DTYPES
from models.architecture.norm import NormKind, NormSpec
from models.attention.reference import ReferenceAttention
from models.attention.select import PREFERENCE, select_backend
from models.attention.triton import TritonAttention
from models.batch import DistanceBias, KVGroupBatch, forward_batch
from models.kv.layer import LayerKV, allocate_layer_kv
from tests.helpers.gpu.compile import launches
from tests.helpers.gpu.interpreter import interpreting
from tests.models.kernels.paged_batches import Lengths, filled_kv, full_kv, paged_batch

BOTH = [torch.float32, torch.bfloat16]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
# A chunk behind a context, a decode and a prefill from nothing; and decodes alone, whose positions are split.
MIXED = [Lengths(9, 60), Lengths(1, 40), Lengths(21, 21)]
DECODES = [Lengths(1, 75), Lengths(1, 2)]
CPU = torch.device("cpu")


def check_attention(
    spec: AttentionSpec,
    lengths: list[Lengths],
    dtype: torch.dtype = torch.float32,
    block_size: int = 16,
    *,
    sm: int = 80,
    num_processors: int = 8,
    distance_bias: DistanceBias | None = None,
    kv_dtype: torch.dtype | None = None,
    large_channel: float = 1.0,
) -> None:
    """Compare a step's attention with the reference's in fp32; slots that no sequence owns hold NaN.

    large_channel: factor of the first channel of queries, by which that of keys is divided.
    """
    generator = torch.Generator().manual_seed(0)
    batch, num_blocks = paged_batch(lengths, block_size, generator)
    batch = dataclasses.replace(batch, distance_bias=distance_bias)
    total = sum(item.context for item in lengths)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    k, v = normal(total, spec.num_kv_heads, spec.head_dim), normal(total, spec.num_kv_heads, spec.value_dim)
    v = None if spec.values_from is not None else v
    k[..., 0] /= large_channel
    fused = normal(sum(batch.query_lens), (spec.num_heads + 2) * spec.head_dim)  # q is a view of a fused projection
    q = fused[:, : spec.num_heads * spec.head_dim].unflatten(1, (spec.num_heads, spec.head_dim))
    q[..., 0] *= large_channel
    extras = {
        "alibi_slopes": 2.0 ** -torch.arange(1, spec.num_heads + 1) if spec.has_alibi else None,
        "sinks": torch.randn(spec.num_heads, generator=generator) * 3 if spec.has_sinks else None,
    }
    backend, reference = TritonAttention(sm, num_processors), ReferenceAttention()
    assert backend.unsupported(spec, dtype, kv_dtype or dtype, CPU) is None

    truth_kv = filled_kv(reference, spec, num_blocks, batch, k.float(), None if v is None else v.float(), kv_dtype)
    if kv_dtype in CODE_DTYPES:
        kv = full_kv(backend, spec, num_blocks, block_size, dtype, kv_dtype=kv_dtype)
        _copy_codes(truth_kv, kv, spec)
    else:
        kv = filled_kv(backend, spec, num_blocks, batch, k, v, kv_dtype)
    with interpreting():
        got = backend.forward(q, kv, batch, batch.groups[0], spec, **extras)
    want = reference.forward(q.float(), truth_kv, batch, batch.groups[0], spec, **extras)

    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), want, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def _copy_codes(reference: LayerKV, kv: LayerKV, spec: AttentionSpec) -> None:
    """Copy the codes of all slots, which take long to write by the interpreter."""
    names = ("k", "v") if spec.values_from is None else ("k",)
    for part, ending in (("kv", ""), ("kv_scale", "_scale")):
        stored = [reference.parts[name + ending] for name in names]  # [slots, heads, numbers]
        tiles = [each[..., :1] if ending else each.view(torch.uint8) for each in stored]
        numbers = torch.cat([each.unflatten(0, (-1, 16)).transpose(1, 2).flatten(1) for each in tiles], 1)
        kv.parts[part].fill_(0)[:, : numbers.shape[1]] = numbers


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize("lengths", [DECODES, MIXED])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(4, 1, 64), (6, 2, 80), (2, 2, 128)])
def test_attention_equals_reference(
    heads: int, kv_heads: int, dim: int, lengths: list[Lengths], dtype: torch.dtype
) -> None:
    check_attention(AttentionSpec(heads, kv_heads, dim, dim**-0.5), lengths, dtype)


@pytest.mark.parametrize(("dim", "value_size"), [(96, None), (256, None), (192, 128), (48, 16), (16, 80)])
def test_attention_equals_reference_over_sizes_of_heads(dim: int, value_size: int | None) -> None:
    spec = AttentionSpec(4, 1, dim, dim**-0.5, value_size=value_size, value_scale=0.7)
    check_attention(spec, MIXED, torch.bfloat16, sm=90)


@pytest.mark.parametrize(
    "options",
    [
        {"sliding_window": 1},
        {"sliding_window": 33},
        {"chunk": 1},
        {"chunk": 19},
        {"logit_softcap": 5.0},
        {"has_alibi": True},
        {"has_sinks": True},
        {"sliding_window": 30, "logit_softcap": 20.0, "has_alibi": True, "has_sinks": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("lengths", [DECODES, MIXED])
def test_attention_equals_reference_over_options(options: dict[str, float], lengths: list[Lengths]) -> None:
    check_attention(AttentionSpec(4, 2, 64, 0.3, **options), lengths)


@pytest.mark.parametrize("block_size", [4, 24])
def test_attention_equals_reference_over_block_sizes(block_size: int) -> None:
    check_attention(AttentionSpec(4, 1, 64, 0.2), [*DECODES, Lengths(17, 50)], torch.bfloat16, block_size)


@pytest.mark.parametrize("window", [None, 9])
def test_attention_that_is_not_causal_equals_reference(window: int | None) -> None:
    spec = AttentionSpec(2, 1, 32, 0.3, sliding_window=window, is_causal=False)
    check_attention(spec, [Lengths(37, 37), Lengths(1, 1)], distance_bias=_bias(2, 36))


@pytest.mark.parametrize(
    ("heads", "size", "values_from", "dtype", "kv_dtype"),
    [
        (4, 48, 16, torch.float32, None),
        (3, 80, 32, torch.bfloat16, None),  # 48 values
        (70, 48, 16, torch.bfloat16, None),  # more than a tile has rows
        (4, 64, 0, torch.float32, None),
        (4, 48, 16, torch.float32, torch.int8),
        (3, 80, 32, torch.bfloat16, torch.float8_e4m3fn),
    ],
)
@pytest.mark.parametrize("lengths", [DECODES, MIXED[:2]], ids=["decodes", "mixed"])
def test_values_that_are_a_part_of_the_keys(
    lengths: list[Lengths],
    heads: int,
    size: int,
    values_from: int,
    dtype: torch.dtype,
    kv_dtype: torch.dtype | None,
) -> None:
    check_attention(AttentionSpec(heads, 1, size, 0.1, values_from=values_from), lengths, dtype, kv_dtype=kv_dtype)


def test_latents_of_deepseek() -> None:
    check_attention(AttentionSpec(16, 1, 576, 0.05, values_from=64), [Lengths(1, 40), Lengths(3, 3)], torch.bfloat16)


def test_bias_by_distance_equals_reference() -> None:
    check_attention(AttentionSpec(4, 2, 32, 0.2), MIXED, distance_bias=_bias(4, 59))


def _bias(num_heads: int, reach: int) -> DistanceBias:
    columns = 2 * DistanceBias.MARGIN + 2 * reach + 1
    return DistanceBias(3 * torch.randn(num_heads, columns, generator=torch.Generator().manual_seed(1)), reach)


@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 2), (40, 1), (70, 1)])
def test_rows_of_drafts_are_split_as_decodes_are(heads: int, kv_heads: int) -> None:
    lengths = [Lengths(4, 70), Lengths(2, 30)] if heads == 6 else [Lengths(1, 70)]
    check_attention(
        AttentionSpec(heads, kv_heads, 64, 0.125, has_sinks=True), lengths, torch.bfloat16, num_processors=4
    )


def test_large_logits_and_a_cache_in_another_dtype() -> None:
    check_attention(AttentionSpec(2, 1, 64, 2.0), DECODES, kv_dtype=torch.bfloat16)


def test_a_row_of_padding_is_zero() -> None:
    for splits in (1, 4):
        batch, num_blocks = paged_batch([Lengths(1, 20), Lengths(1, 1)], 16, torch.Generator().manual_seed(0))
        batch.seq_lens[1] = 0
        spec, backend = AttentionSpec(2, 1, 64, 1.0), TritonAttention(80, splits)
        kv = filled_kv(backend, spec, num_blocks, batch, *torch.randn(2, 21, 1, 64))
        q = torch.randn(2, 2, 64)
        with interpreting():
            out = backend.forward(q, kv, batch, batch.groups[0], spec)
        assert out[0].abs().min() > 0
        assert torch.equal(out[1], torch.zeros(2, 64))


@pytest.mark.parametrize("rows", [[1, 1], [1, 30]])
def test_launches_of_equal_shapes_are_equal_whatever_the_lengths(rows: list[int]) -> None:
    """A captured graph repeats them as they are."""
    spec, backend = AttentionSpec(4, 2, 64, 0.1, sliding_window=40, has_sinks=True), TritonAttention(90, 132)

    def launched(contexts: list[int]) -> list[object]:
        batch, _ = paged_batch([*map(Lengths, rows, contexts), Lengths(1, 900)], 16, torch.Generator())
        kv = full_kv(backend, spec, 80, 16)
        q, sinks = torch.empty(sum(batch.query_lens), 4, 64), torch.empty(4)
        found = launches(lambda: backend.forward(q, kv, batch, batch.groups[0], spec, sinks=sinks))
        return [(each.kernel, each.grid, [_constant(arg) for arg in each.args], each.meta) for each in found]

    assert len(launched([70, 40])) == len(rows) + sum(rows) // 30
    assert launched([70, 40]) == launched([5, 700])


def _constant(arg: object) -> object:
    return (arg.shape, arg.dtype) if isinstance(arg, torch.Tensor) else arg


def test_many_sequences_are_not_split() -> None:
    assert _num_launches(sequences=200) == 1
    assert _num_launches(sequences=2) == 2


def _num_launches(sequences: int) -> int:
    spec, backend = AttentionSpec(4, 2, 64, 0.1), TritonAttention(90, 132)
    batch, _ = paged_batch([Lengths(1, 500)] * sequences, 16, torch.Generator())
    kv = full_kv(backend, spec, 1, 16)
    return len(launches(lambda: backend.forward(torch.empty(sequences, 4, 64), kv, batch, batch.groups[0], spec)))


@pytest.mark.parametrize("heads", [32, 40])
def test_few_kernels_serve_all_contexts_sequences_and_drafts(heads: int) -> None:
    """Each compiles for seconds, while requests wait."""
    spec, backend, meta = AttentionSpec(heads, 8, 128, 0.1), TritonAttention(90, 132), torch.device("meta")
    kv = allocate_layer_kv(backend.layout(spec, torch.bfloat16, torch.bfloat16), 4, 16, meta)
    variants = set()
    sizes = itertools.product([*range(1, 10), 13, 17], [1, 5, 64], [[], [300]], [19, 1875])
    for rows, sequences, prompts, blocks in sizes:
        lengths = [rows] * sequences + prompts
        tables = [torch.zeros(len(lengths), blocks, dtype=torch.int32)]
        batch = forward_batch([0] * sum(lengths), lengths, tables, block_size=16, device=meta)
        q = torch.empty(sum(lengths), heads, 128, dtype=torch.bfloat16, device=meta)
        for kernel, _, args, constants in launches(lambda q=q, b=batch: backend.forward(q, kv, b, b.groups[0], spec)):
            if kernel.__name__ != "mixed_prefill":
                variants.add((kernel, *(arg is None for arg in args), *constants.items()))
    assert len(variants) <= 12


def test_a_block_has_keys_of_all_heads_and_then_values() -> None:
    spec, backend = AttentionSpec(4, 2, 8, 1.0), TritonAttention(80, 1)
    k, v = torch.randn(2, 20, 2, 8)
    kv = full_kv(backend, spec, 2, 16, value=-1.0)
    backend.write(kv, k, v, KVGroupBatch(torch.arange(5, 25), torch.zeros(1, 1), 16))
    blocks = kv.parts["kv"].view(2, 2, 2, 16, 8)  # [blocks, key or value, heads, positions, D]
    assert torch.equal(blocks[0, 0, :, 5:], k[:11].transpose(0, 1))
    assert torch.equal(blocks[1, 1, :, :9], v[11:].transpose(0, 1))
    assert torch.equal(blocks[0, :, :, :5], torch.full((2, 2, 5, 8), -1.0))
    assert backend.layout(spec, torch.bfloat16, torch.bfloat16).position_bytes == 2 * 2 * 8 * 2


@pytest.mark.parametrize(
    ("spec", "dtype", "kv_dtype", "reason"),
    [
        (AttentionSpec(4, 4, 64, 1.0), torch.float16, torch.float16, "takes bfloat16 and float32, not torch.float16"),
        (AttentionSpec(4, 4, 64, 1.0), torch.bfloat16, torch.int4, "not as int4"),
        (AttentionSpec(4, 4, 24, 1.0), torch.bfloat16, torch.int8, "a multiple of 16 numbers, not 24"),
        (
            AttentionSpec(4, 4, 256, 1.0),
            torch.bfloat16,
            torch.int8,
            "int8 caches of heads with up to 128 numbers, not 256",
        ),
        (AttentionSpec(4, 4, 320, 1.0), torch.bfloat16, torch.bfloat16, "up to 256 numbers, not 320"),
        (AttentionSpec(4, 1, 1088, 1.0, values_from=64), torch.bfloat16, torch.bfloat16, "a part of the keys"),
        (AttentionSpec(4, 1, 576, 1.0, values_from=64), torch.float32, torch.float32, "up to 256 numbers"),
        (
            AttentionSpec(4, 1, 64, 1.0, indexer=IndexerSpec(2, 16, 4, NormSpec(NormKind.RMS, 1e-6))),
            torch.bfloat16,
            torch.bfloat16,
            "an indexer",
        ),
    ],
)
def test_what_it_cannot_do_is_refused(
    spec: AttentionSpec, dtype: torch.dtype, kv_dtype: torch.dtype, reason: str
) -> None:
    message = TritonAttention(90, 132).unsupported(spec, dtype, kv_dtype, CPU)
    assert message is not None
    assert reason in message


def test_a_cpu_is_refused_and_a_gpu_prefers_it() -> None:
    assert TritonAttention().name == "triton"
    assert [path.partition(":")[2] for path in PREFERENCE["cuda"]] == ["TritonAttention", "ReferenceAttention"]
    backend, refusals = select_backend(
        [AttentionSpec(4, 2, 64, 1.0)], torch.bfloat16, torch.bfloat16, CPU, {"cpu": PREFERENCE["cuda"]}
    )
    assert backend.name == "reference"
    assert refusals == ["triton: runs on CUDA devices, not on cpu"]
