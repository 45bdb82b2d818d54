"""The C++ attention kernel gives a row the same numbers, to the bit, whatever rows and sequences a step computes."""

import dataclasses
from collections.abc import Iterator

import pytest
import torch

from models.architecture.attention import AttentionSpec
from models.attention.cpu import CpuAttention
from models.kernels.cpu.library import KernelLibrary
from tests.models.kernels.paged_batches import Lengths, filled_kv, paged_batch

CONTEXT = 1300  # three segments
PLAIN = AttentionSpec(6, 2, 32, 32**-0.5)
SPECS = {
    "full": PLAIN,
    "window": dataclasses.replace(PLAIN, sliding_window=600),
    "short window": dataclasses.replace(PLAIN, sliding_window=37),
    "chunks": dataclasses.replace(PLAIN, chunk=700),
    "soft cap": dataclasses.replace(PLAIN, logit_softcap=20.0),
    "values in keys": AttentionSpec(6, 1, 48, 48**-0.5, values_from=16),
}


@pytest.fixture(autouse=True)
def without_tiles(kernels: KernelLibrary) -> Iterator[None]:
    """Compute as `--deterministic` does: AMX tiles of many rows add up in another order."""
    kernels.allow_amx(False)
    yield
    kernels.allow_amx(True)


class Sequence:
    """Random queries, keys and values of one sequence of CONTEXT tokens."""

    def __init__(self, kernels: KernelLibrary, spec: AttentionSpec, dtype: torch.dtype, kv_dtype: torch.dtype) -> None:
        self.spec, self.kv_dtype = spec, kv_dtype
        self.backend = CpuAttention(kernels)
        generator = torch.Generator().manual_seed(1)

        def normal(heads: int, size: int) -> torch.Tensor:
            return (torch.randn(CONTEXT, heads, size, generator=generator) * 2).to(dtype)

        self.q, self.k = normal(spec.num_heads, spec.head_dim), normal(spec.num_kv_heads, spec.head_dim)
        self.v = None if spec.values_from is not None else normal(spec.num_kv_heads, spec.value_dim)

    def attend(self, parts: list[Lengths], seed: int = 0) -> list[torch.Tensor]:
        """Return the outputs of each part's rows, all in one step; each part is a prefix of the sequence."""
        batch, num_blocks = paged_batch(parts, 16, torch.Generator().manual_seed(seed))
        k = torch.cat([self.k[: part.context] for part in parts])
        v = None if self.v is None else torch.cat([self.v[: part.context] for part in parts])
        q = torch.cat([self.q[part.context - part.rows : part.context] for part in parts])
        kv = filled_kv(self.backend, self.spec, num_blocks, batch, k, v, self.kv_dtype)
        out = self.backend.forward(q, kv, batch, batch.groups[0], self.spec)
        return list(out.split([part.rows for part in parts]))


DTYPES = [("bfloat16", "bfloat16"), ("float32", "float32"), ("bfloat16", "int8"), ("bfloat16", "int4")]


@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
@pytest.mark.parametrize("name", SPECS)
def test_rows_are_the_same_to_the_bit_in_chunks_alone_and_beside_others(
    kernels: KernelLibrary, name: str, dtypes: tuple[str, str]
) -> None:
    sequence = Sequence(kernels, SPECS[name], *(getattr(torch, each) for each in dtypes))
    [whole] = sequence.attend([Lengths(CONTEXT, CONTEXT)])
    steps = [
        [Lengths(1, CONTEXT)],
        [Lengths(3, CONTEXT - 5)],  # a verified draft
        [Lengths(300, 1100)],
        [
            Lengths(1, CONTEXT),
            Lengths(1, 1200),
            *[Lengths(1, 1100)] * 4,
        ],  # the first are enough for every thread without a cut
        [Lengths(45, 45), Lengths(1, 1025), Lengths(9, 1030), Lengths(130, 700), Lengths(1, 513), Lengths(1, 1)],
    ]
    for seed, parts in enumerate(steps, 1):
        for part, rows in zip(parts, sequence.attend(parts, seed), strict=True):
            assert torch.equal(rows, whole[part.context - part.rows : part.context]), part


def test_rows_are_the_same_to_the_bit_with_one_thread(kernels: KernelLibrary) -> None:
    sequence = Sequence(kernels, PLAIN, torch.bfloat16, torch.bfloat16)
    parts = [Lengths(1, CONTEXT), Lengths(200, 900)]
    two = sequence.attend(parts)
    kernels.set_num_threads(1)
    try:
        one = sequence.attend(parts)
    finally:
        kernels.set_num_threads(2)
    assert all(torch.equal(a, b) for a, b in zip(two, one, strict=True))
