"""Random mixed batches with paged tables, shared by the attention tests."""

from dataclasses import dataclass

import torch

from models.architecture.attention import AttentionSpec
from models.attention.base import AttentionBackend
from models.batch import ForwardBatch, KVGroupBatch


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
    slots, positions, taken = [], [], 0
    for i, item in enumerate(lengths):
        tables[i, : needed[i]] = order[taken : taken + needed[i]]
        taken += needed[i]
        at = torch.arange(item.context - item.rows, item.context)
        positions.append(at)
        slots.append(tables[i].long()[at // block_size] * block_size + at % block_size)
    rows = [item.rows for item in lengths]
    offsets = torch.tensor([0, *rows]).cumsum(0)
    batch = ForwardBatch(
        token_ids=torch.zeros(int(offsets[-1]), dtype=torch.int64),
        positions=torch.cat(positions),
        cu_seqlens_q=offsets.to(torch.int32),
        seq_lens=torch.tensor([item.context for item in lengths], dtype=torch.int32),
        groups=(KVGroupBatch(slot_mapping=torch.cat(slots), block_tables=tables),),
        logit_rows=offsets[1:] - 1,
        query_lens=tuple(rows),
        context_lens=tuple(item.context for item in lengths),
        block_size=block_size,
    )
    return batch, num_blocks


def context_slots(batch: ForwardBatch) -> torch.Tensor:
    """Slots of every position of every sequence, sequence after sequence."""
    tables, size = batch.groups[0].block_tables.long(), batch.block_size
    spans = [torch.arange(length) for length in batch.context_lens]
    return torch.cat([tables[i][at // size] * size + at % size for i, at in enumerate(spans)])


def filled_kv(
    backend: AttentionBackend,
    spec: AttentionSpec,
    num_blocks: int,
    batch: ForwardBatch,
    k: torch.Tensor,
    v: torch.Tensor | None,
) -> torch.Tensor:
    """A KV tensor with k and v ([sum of contexts, K, D]) at the batch's slots, and NaN everywhere else."""
    kv = torch.full(backend.kv_shape(spec, num_blocks, batch.block_size), float("nan"), dtype=k.dtype)
    group = KVGroupBatch(slot_mapping=context_slots(batch), block_tables=batch.groups[0].block_tables)
    backend.write(kv, k, v, group)
    return kv
