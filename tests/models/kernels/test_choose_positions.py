"""The C++ kernel of indexers, and attention to the chosen positions, against the reference back end, on every level."""

import pytest
import torch

from models.architecture.attention import AttentionSpec, IndexerSpec
from models.architecture.norm import NormKind, NormSpec
from models.attention.base import AttentionBackend
from models.attention.cpu import CpuAttention
from models.attention.reference import ReferenceAttention
from models.attention.rotary import RotaryEmbedding
from models.batch import ForwardBatch, KVGroupBatch
from models.kernels.cpu.library import KernelLibrary
from models.kv.layer import LayerKV
from tests.models.kernels.paged_batches import Lengths, context_slots, filled_kv, paged_batch
from tests.models.kernels.test_attention import TOLERANCE

TOPK = 40
# all see less than TOPK; a prefill beyond it; a chunk; decodes before, at, behind it, and split; a verify pass
MIXED = [
    Lengths(33, 33),
    Lengths(77, 77),
    Lengths(9, 100),
    Lengths(1, 40),
    Lengths(1, 41),
    Lengths(1, 1300),
    Lengths(4, 611),
]
DTYPES = [torch.float32, torch.bfloat16]


def indexer(num_heads: int, head_dim: int, topk: int = TOPK) -> IndexerSpec:
    return IndexerSpec(num_heads, head_dim, topk, NormSpec(NormKind.LAYER, 1e-6, has_bias=True))


def latent_attention(num_heads: int, topk: int = TOPK) -> AttentionSpec:
    return AttentionSpec(num_heads, 1, 48, 48**-0.5, values_from=16, indexer=indexer(5, 32, topk))


def with_index(
    backend: AttentionBackend, spec: AttentionSpec, num_blocks: int, batch: ForwardBatch, keys: torch.Tensor
) -> LayerKV:
    """A cache with an indexer's keys [sum of contexts, 1, D] at the batch's slots, and NaN everywhere else."""
    latents = torch.full((len(keys), 1, spec.head_dim), float("nan"), dtype=keys.dtype)
    kv = filled_kv(backend, spec, num_blocks, batch, latents, None)
    group = KVGroupBatch(context_slots(batch), batch.groups[0].block_tables, batch.groups[0].block_size)
    no_rotation = RotaryEmbedding(*torch.empty(2, len(keys), 0))
    backend.rotate_and_write_index(kv, None, keys.clone(), no_rotation, group)
    return kv


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "dim"), [(5, 32), (64, 128)])
@pytest.mark.parametrize("block_size", [4, 16])
def test_the_best_positions_are_chosen_the_earlier_of_equal_ones(
    kernels: KernelLibrary, heads: int, dim: int, block_size: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    batch, num_blocks = paged_batch(MIXED, block_size, generator)

    def small_integers(*shape: int) -> torch.Tensor:  # so that sums are exact, and many scores equal
        return torch.randint(-1, 2, shape, generator=generator).float()

    spec = AttentionSpec(8, 1, 48, 1.0, values_from=16, indexer=indexer(heads, dim))
    assert spec.indexer is not None
    keys = small_integers(sum(batch.context_lens), 1, dim).to(dtype)
    q = small_integers(sum(batch.query_lens), heads, dim).to(dtype)
    weights = small_integers(sum(batch.query_lens), heads)
    native, reference = CpuAttention(kernels), ReferenceAttention()

    got, want = (
        backend.choose(
            q, weights, with_index(backend, spec, num_blocks, batch, keys), batch, batch.groups[0], spec.indexer
        )
        for backend in (native, reference)
    )

    is_dense = want[:, 0] < 0
    assert torch.equal(is_dense, batch.positions < TOPK)
    assert torch.equal(got[:, 0] < 0, is_dense)
    assert torch.equal(got[~is_dense], want[~is_dense])
    assert (want[~is_dense].diff(dim=1) > 0).all()


def test_scores_that_are_no_numbers_leave_a_valid_choice(kernels: KernelLibrary) -> None:
    generator = torch.Generator().manual_seed(0)
    batch, num_blocks = paged_batch([Lengths(1, 60)], 16, generator)
    spec = latent_attention(8)
    assert spec.indexer is not None
    keys = torch.randn(60, 1, 32, generator=generator)
    backend = CpuAttention(kernels)
    for broken in (keys, keys.index_fill(0, torch.arange(7, 25), float("inf")), keys * float("nan")):
        for weights in (torch.zeros(1, 5), torch.full((1, 5), float("nan"))):
            kv = with_index(backend, spec, num_blocks, batch, broken)

            chosen = backend.choose(torch.ones(1, 5, 32), weights, kv, batch, batch.groups[0], spec.indexer)

            assert (chosen.diff() > 0).all()
            assert 0 <= int(chosen.min()) <= int(chosen.max()) < 60


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "block_size"), [(8, 16), (40, 4), (40, 24)])
def test_attention_to_chosen_positions_equals_reference(
    kernels: KernelLibrary, heads: int, block_size: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    batch, num_blocks = paged_batch(MIXED, block_size, generator)
    spec = latent_attention(heads)
    k = torch.randn(sum(batch.context_lens), 1, spec.head_dim, generator=generator).to(dtype)
    q = torch.randn(sum(batch.query_lens), heads, spec.head_dim, generator=generator).to(dtype)
    chosen = random_choice(batch, TOPK, generator)
    native, reference = CpuAttention(kernels), ReferenceAttention()

    got = native.forward(
        q, filled_kv(native, spec, num_blocks, batch, k, None), batch, batch.groups[0], spec, chosen=chosen
    )
    truth_kv = filled_kv(reference, spec, num_blocks, batch, k.float(), None)
    want = reference.forward(q.float(), truth_kv, batch, batch.groups[0], spec, chosen=chosen)

    torch.testing.assert_close(got.float(), want, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_attention_to_all_positions_is_that_without_a_choice(kernels: KernelLibrary) -> None:
    generator = torch.Generator().manual_seed(0)
    batch, num_blocks = paged_batch(MIXED, 16, generator)
    spec = latent_attention(40, topk=1300)
    k = torch.randn(sum(batch.context_lens), 1, spec.head_dim, generator=generator)
    q = torch.randn(sum(batch.query_lens), 40, spec.head_dim, generator=generator)
    for backend in (CpuAttention(kernels), ReferenceAttention()):
        kv = filled_kv(backend, spec, num_blocks, batch, k, None)
        chosen = random_choice(batch, 1300, generator)

        results = [backend.forward(q, kv, batch, batch.groups[0], spec, chosen=each) for each in (chosen, None)]

        assert torch.equal(*results)


def random_choice(batch: ForwardBatch, topk: int, generator: torch.Generator) -> torch.Tensor:
    """Any `topk` of the positions that each row sees, ascending, as AttentionBackend.choose returns them."""
    chosen = torch.full((len(batch.positions), topk), -1, dtype=torch.int32)
    for row, position in enumerate(batch.positions.tolist()):
        if position >= topk:
            chosen[row] = torch.randperm(position + 1, generator=generator)[:topk].sort().values.int()
    return chosen
