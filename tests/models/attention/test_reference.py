"""Reference attention against a written-out softmax, for every field of AttentionSpec."""

import dataclasses
import math

import pytest
import torch

from models.architecture.attention import AttentionSpec
from models.attention import reference
from models.attention.reference import ReferenceAttention
from models.batch import ForwardBatch, KVGroupBatch, forward_batch
from tests.models.kernels.paged_batches import full_kv

BLOCK_SIZE = 4
PLAIN = AttentionSpec(num_heads=4, num_kv_heads=2, head_dim=8, scale=0.3)
SPECS = {
    "plain": PLAIN,
    "one kv head a head": dataclasses.replace(PLAIN, num_kv_heads=4),
    "window": dataclasses.replace(PLAIN, sliding_window=3),
    "window of 1": dataclasses.replace(PLAIN, sliding_window=1),
    "chunks": dataclasses.replace(PLAIN, chunk=5),
    "softcap": dataclasses.replace(PLAIN, logit_softcap=1.5),
    "alibi": dataclasses.replace(PLAIN, has_alibi=True),
    "sinks": dataclasses.replace(PLAIN, has_sinks=True),
    "smaller values": dataclasses.replace(PLAIN, value_size=5, value_scale=0.7),
    "values in keys": dataclasses.replace(PLAIN, values_from=3),
    "all": dataclasses.replace(PLAIN, sliding_window=5, logit_softcap=2.0, has_alibi=True, has_sinks=True),
}
# (context length, rows): decodes of uneven lengths between prefill chunks.
SEQUENCES = [(9, 9), (17, 1), (6, 2), (1, 1), (13, 1), (30, 12)]


def expected_row(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, position: int, spec: AttentionSpec,
    slopes: torch.Tensor | None, sinks: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    """q: [H, D]; k, v: [context, K, D or value_dim]. Plain loops in float64."""
    out = torch.zeros(len(q), v.shape[-1], dtype=torch.float64)
    first = 0 if spec.sliding_window is None else max(0, position - spec.sliding_window + 1)
    if spec.chunk is not None:
        first = max(first, position - position % spec.chunk)
    for head in range(spec.num_heads):
        kv_head = head * spec.num_kv_heads // spec.num_heads
        weights = []
        for key in range(first, position + 1):
            logit = spec.scale * float(q[head].double() @ k[key, kv_head].double())
            if spec.logit_softcap is not None:
                logit = spec.logit_softcap * math.tanh(logit / spec.logit_softcap)
            if slopes is not None:
                logit -= float(slopes[head]) * (position - key)
            weights.append(math.exp(logit))
        total = sum(weights) + (0.0 if sinks is None else math.exp(float(sinks[head])))
        for key, weight in zip(range(first, position + 1), weights, strict=True):
            out[head] += spec.value_scale * weight / total * v[key, kv_head].double()
    return out


@pytest.mark.parametrize("bound", [1 << 24, 200], ids=["at once", "in small chunks"])
@pytest.mark.parametrize("name", SPECS)
def test_reference_equals_a_written_out_softmax(name: str, bound: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_MAX_GATHERED", bound)
    monkeypatch.setattr(reference, "_MAX_SCORES", bound)
    spec = SPECS[name]
    generator = torch.Generator().manual_seed(4)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    backend = ReferenceAttention()
    num_blocks = sum(-(-context // BLOCK_SIZE) for context, _ in SEQUENCES)
    free = torch.randperm(num_blocks, generator=generator).tolist()
    kv = full_kv(backend, spec, num_blocks, BLOCK_SIZE, value=float("nan"))  # unwritten slots must not be read
    tables = torch.zeros(len(SEQUENCES), 8, dtype=torch.int32)
    queries, expected = [], []
    slopes = draw(spec.num_heads).abs() if spec.has_alibi else None
    sinks = draw(spec.num_heads) if spec.has_sinks else None
    for index, (context, rows) in enumerate(SEQUENCES):
        blocks = [free.pop() for _ in range(-(-context // BLOCK_SIZE))]
        tables[index, : len(blocks)] = torch.tensor(blocks)
        k, own_v = draw(context, spec.num_kv_heads, spec.head_dim), draw(context, spec.num_kv_heads, spec.value_dim)
        v = own_v if spec.values_from is None else k[..., spec.values_from :]
        slots = torch.tensor([blocks[p // BLOCK_SIZE] * BLOCK_SIZE + p % BLOCK_SIZE for p in range(context)])
        backend.write(kv, k, own_v if spec.values_from is None else None, KVGroupBatch(slots, tables, BLOCK_SIZE))
        q = draw(rows, spec.num_heads, spec.head_dim)
        queries.append(q)
        for row in range(rows):
            expected.append(expected_row(q[row], k, v, context - rows + row, spec, slopes, sinks))

    out = backend.forward(
        torch.cat(queries), kv, batch_of(tables), KVGroupBatch(torch.empty(0), tables, BLOCK_SIZE), spec,
        alibi_slopes=slopes, sinks=sinks,
    )  # fmt: skip

    torch.testing.assert_close(out.double(), torch.stack(expected), rtol=0.0, atol=1e-5)


def batch_of(tables: torch.Tensor) -> ForwardBatch:
    _, rows = zip(*SEQUENCES, strict=True)
    starts = [context - num for context, num in SEQUENCES]
    cpu = torch.device("cpu")
    return forward_batch([0] * sum(rows), rows, [tables], block_size=BLOCK_SIZE, device=cpu, starts=starts)


@pytest.mark.parametrize("rows", [1, 40])
def test_reference_gathers_a_long_context_in_tiles(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = 64 * PLAIN.num_kv_heads * PLAIN.head_dim
    monkeypatch.setattr(reference, "_MAX_GATHERED", bound)
    gathered: list[int] = []
    gather = reference._gather

    def watched(*arguments: object) -> torch.Tensor:
        part = gather(*arguments)
        gathered.append(part.numel())
        return part

    monkeypatch.setattr(reference, "_gather", watched)
    backend, context, num_blocks = ReferenceAttention(), 1000, 250
    kv = full_kv(backend, PLAIN, num_blocks, BLOCK_SIZE)
    tables = torch.arange(num_blocks, dtype=torch.int32)[None]
    cpu = torch.device("cpu")
    batch = forward_batch([0] * rows, [rows], [tables], block_size=BLOCK_SIZE, device=cpu, starts=[context - rows])

    backend.forward(torch.zeros(rows, 4, 8), kv, batch, batch.groups[0], PLAIN)

    assert max(gathered) <= bound
    assert sum(gathered) == 2 * context * PLAIN.num_kv_heads * PLAIN.head_dim  # keys and values
