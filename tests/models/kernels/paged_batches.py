"""Random mixed batches with paged tables, shared by the attention tests."""

from dataclasses import dataclass

import torch

from models.architecture.attention import AttentionSpec
from models.attention.base import AttentionBackend
from models.batch import ForwardBatch, KVGroupBatch, forward_batch
from models.kv.layer import LayerKV, allocate_layer_kv
from tests.helpers.paged import fill


@dataclass(frozen=True)
class Lengths:
    """One sequence of a batch: rows of this step, and context length after it."""

    rows: int
    context: int


def paged_batch(lengths: list[Lengths], block_size: int, generator: torch.Generator) -> tuple[ForwardBatch, int]:
    """A batch whose sequences own random blocks of a pool with spare ones; and the pool's number of blocks."""
    needed = [-(-item.context // block_size) for item in lengths]
    num_blocks = sum(needed) + 3
    order = torch.randperm(num_blocks, generator=generator, dtype=torch.int32)
    tables = torch.zeros(len(lengths), max(needed), dtype=torch.int32)
    taken = 0
    for i, count in enumerate(needed):
        tables[i, :count] = order[taken : taken + count]
        taken += count
    rows = [item.rows for item in lengths]
    starts = [item.context - item.rows for item in lengths]
    cpu = torch.device("cpu")
    batch = forward_batch([0] * sum(rows), rows, [tables], block_size=block_size, device=cpu, starts=starts)
    return batch, num_blocks


def context_slots(batch: ForwardBatch) -> torch.Tensor:
    """Slots of every position of every sequence, sequence after sequence."""
    tables, size = batch.groups[0].block_tables.long(), batch.groups[0].block_size
    spans = [torch.arange(length) for length in batch.context_lens]
    return torch.cat([tables[i][at // size] * size + at % size for i, at in enumerate(spans)])


def full_kv(
    backend: AttentionBackend,
    spec: AttentionSpec,
    num_blocks: int,
    block_size: int,
    dtype: torch.dtype = torch.float32,
    value: float = 0.0,
    kv_dtype: torch.dtype | None = None,
) -> LayerKV:
    """A cache in which every number is `value`. kv_dtype: by default `dtype`."""
    kv = allocate_layer_kv(backend.layout(spec, dtype, kv_dtype or dtype), num_blocks, block_size, torch.device("cpu"))
    fill(kv, value)
    return kv


def filled_kv(
    backend: AttentionBackend,
    spec: AttentionSpec,
    num_blocks: int,
    batch: ForwardBatch,
    k: torch.Tensor,
    v: torch.Tensor | None,
    kv_dtype: torch.dtype | None = None,
) -> LayerKV:
    """A cache with k and v ([sum of contexts, K, D]) at the batch's slots, and NaN everywhere else."""
    block_size = batch.groups[0].block_size
    kv = full_kv(backend, spec, num_blocks, block_size, k.dtype, float("nan"), kv_dtype)
    group = KVGroupBatch(context_slots(batch), batch.groups[0].block_tables, block_size)
    backend.write(kv, k, v, group)
    return kv
