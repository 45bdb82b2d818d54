"""Reference attention: gathers the context by block table and takes an fp32 softmax. Runs anywhere; the oracle."""

import torch

from models.attention.base import AttentionBackend, AttentionSpec
from models.batch import ForwardBatch, KVGroupBatch

# Bounds of the fp32 temporaries, in elements: padded K (and V) of a batch of decodes, and scores of a prefill chunk.
_MAX_GATHERED = 1 << 24
_MAX_SCORES = 1 << 24


class ReferenceAttention(AttentionBackend):
    """KV layout: [2 (K, V), num_blocks, block_size, num_kv_heads, head_dim]."""

    name = "reference"

    def unsupported(self, spec: AttentionSpec, dtype: torch.dtype, device: torch.device) -> str | None:  # noqa: ARG002
        return None

    def kv_shape(self, spec: AttentionSpec, num_blocks: int, block_size: int) -> tuple[int, ...]:
        return (2, num_blocks, block_size, spec.num_kv_heads, spec.head_dim)

    def write(self, kv: torch.Tensor, k: torch.Tensor, v: torch.Tensor, group: KVGroupBatch) -> None:
        keys, values = kv.flatten(1, 2)  # [num_slots, K, D]
        keys.index_copy_(0, group.slot_mapping, k)
        values.index_copy_(0, group.slot_mapping, v)

    def forward(
        self,
        q: torch.Tensor,
        kv: torch.Tensor,
        batch: ForwardBatch,
        group: KVGroupBatch,
        spec: AttentionSpec,
        *,
        alibi_slopes: torch.Tensor | None = None,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        out = torch.empty_like(q)
        decodes: list[tuple[int, int]] = []  # (sequence, row)
        row = 0
        for sequence, num_rows in enumerate(batch.query_lens):
            if num_rows == 1:
                decodes.append((sequence, row))
            else:
                self._attend_rows(out, q, kv, batch, group, spec, alibi_slopes, sinks, sequence, row)
            row += num_rows
        for chunk in _bounded_chunks(decodes, batch, spec):
            sequences, rows = (torch.tensor(column, device=q.device) for column in zip(*chunk, strict=True))
            context = max(batch.context_lens[sequence] for sequence, _ in chunk)
            k, v = _gather(kv, group.block_tables[sequences], context, batch.block_size)
            positions = batch.positions[rows].unsqueeze(1)  # [N, 1]
            attended = _attend(q[rows].unsqueeze(1), k, v, positions, spec, alibi_slopes, sinks)
            out[rows] = attended.squeeze(1)
        return out

    @staticmethod
    def _attend_rows(
        out: torch.Tensor,
        q: torch.Tensor,
        kv: torch.Tensor,
        batch: ForwardBatch,
        group: KVGroupBatch,
        spec: AttentionSpec,
        alibi_slopes: torch.Tensor | None,
        sinks: torch.Tensor | None,
        sequence: int,
        first_row: int,
    ) -> None:
        """Fill the rows of one sequence, a chunk of them at a time so that the scores stay bounded."""
        context = batch.context_lens[sequence]
        end = first_row + batch.query_lens[sequence]
        k, v = _gather(kv, group.block_tables[sequence : sequence + 1], context, batch.block_size)
        step = max(1, _MAX_SCORES // (context * spec.num_heads))
        for start in range(first_row, end, step):
            rows = slice(start, min(start + step, end))
            positions = batch.positions[rows].unsqueeze(0)  # [1, rows]
            out[rows] = _attend(q[rows].unsqueeze(0), k, v, positions, spec, alibi_slopes, sinks).squeeze(0)


def _bounded_chunks(
    decodes: list[tuple[int, int]], batch: ForwardBatch, spec: AttentionSpec
) -> list[list[tuple[int, int]]]:
    """Decodes in order of context length, cut where padding a chunk to its longest would gather too much."""
    chunks: list[list[tuple[int, int]]] = []
    for decode in sorted(decodes, key=lambda item: batch.context_lens[item[0]]):
        padded = batch.context_lens[decode[0]] * spec.num_kv_heads * spec.head_dim
        if chunks and (len(chunks[-1]) + 1) * padded <= _MAX_GATHERED:
            chunks[-1].append(decode)
        else:
            chunks.append([decode])
    return chunks


def _gather(kv: torch.Tensor, tables: torch.Tensor, context: int, block_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """K and V of positions 0 .. context - 1 of each table's sequence: each [N, context, K, D], fp32."""
    num_blocks = -(-context // block_size)
    k, v = kv[:, tables[:, :num_blocks].long()].flatten(2, 3)[:, :, :context].to(torch.float32)
    return k, v


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    positions: torch.Tensor,
    spec: AttentionSpec,
    alibi_slopes: torch.Tensor | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """q: [N, R, H, D] at positions [N, R]; k, v: [N, C, K, D] at positions 0 .. C - 1. Returns [N, R, H, D]."""
    shared = spec.num_heads // spec.num_kv_heads  # query heads to a KV head
    heads = (spec.num_kv_heads, shared)
    queries = q.to(torch.float32).unflatten(2, heads)  # [N, R, K, H/K, D]
    scores = torch.einsum("nrkgd,nckd->nkgrc", queries, k) * spec.scale
    if spec.logit_softcap is not None:
        scores = spec.logit_softcap * torch.tanh(scores / spec.logit_softcap)
    distance = positions.unsqueeze(-1) - torch.arange(k.shape[1], device=q.device)  # [N, R, C], query minus key
    if alibi_slopes is not None:
        slopes = alibi_slopes.to(torch.float32).view(1, *heads, 1, 1)
        scores = scores - slopes * distance[:, None, None]
    hidden = distance < 0
    if spec.sliding_window is not None:
        hidden |= distance >= spec.sliding_window
    scores = scores.masked_fill(hidden[:, None, None], float("-inf"))
    if sinks is not None:
        sink = sinks.to(torch.float32).view(1, *heads, 1, 1).expand(*scores.shape[:-1], 1)
        weights = torch.cat((scores, sink), dim=-1).softmax(dim=-1)[..., :-1]
    else:
        weights = scores.softmax(dim=-1)
    # Slots beyond a sequence's end hold anything, NaN too, and 0 * NaN would spread: only finite values may enter.
    seen = (~hidden).any(dim=1)[:, :, None, None]  # [N, C, 1, 1]
    attended = torch.einsum("nkgrc,nckd->nrkgd", weights, torch.where(seen, v, 0.0))
    return attended.flatten(2, 3).to(q.dtype)
