"""Reference attention: gathers the context by block table and takes an fp32 softmax. Runs anywhere; the oracle."""

from typing import NamedTuple

import torch

from models.attention.base import AttentionBackend, AttentionSpec
from models.batch import ForwardBatch, KVGroupBatch

# Bounds of the fp32 temporaries, in elements: padded K (and V) of decodes, and scores of a run of rows.
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
        for part in _parts(batch, spec):
            sequences = torch.tensor(part.sequences, device=q.device)  # [N]
            rows = torch.tensor(part.rows, device=q.device)  # [N, R]
            k, v = _gather(kv, group.block_tables[sequences], part.context, batch.block_size)
            out[rows] = _attend(q[rows], k, v, batch.positions[rows], spec, alibi_slopes, sinks)
        return out


class _Part(NamedTuple):
    """Rows attended together: several sequences' single rows, or one sequence's rows in a run."""

    sequences: list[int]  # [N]
    rows: list[list[int]]  # [N, R]
    context: int  # keys that the furthest row sees


def _parts(batch: ForwardBatch, spec: AttentionSpec) -> list[_Part]:
    """All rows of the batch, in parts whose temporaries are bounded."""
    parts: list[_Part] = []
    decodes: list[tuple[int, int, int]] = []  # (context, sequence, row)
    end = 0
    for sequence, (num_rows, context) in enumerate(zip(batch.query_lens, batch.context_lens, strict=True)):
        start, end = end, end + num_rows
        if num_rows == 1:
            decodes.append((context, sequence, start))
            continue
        step = max(1, _MAX_SCORES // (context * spec.num_heads))
        for first in range(start, end, step):
            last = min(first + step, end)
            parts.append(_Part([sequence], [list(range(first, last))], context - (end - last)))
    return parts + _decode_parts(decodes, spec)


def _decode_parts(decodes: list[tuple[int, int, int]], spec: AttentionSpec) -> list[_Part]:
    """Decodes in order of context, parted where padding to the longest would gather too much."""
    parts: list[_Part] = []
    for context, sequence, row in sorted(decodes):
        num_before = len(parts[-1].sequences) if parts else 0
        if num_before and (num_before + 1) * context * spec.num_kv_heads * spec.head_dim <= _MAX_GATHERED:
            parts[-1] = _Part([*parts[-1].sequences, sequence], [*parts[-1].rows, [row]], context)
        else:
            parts.append(_Part([sequence], [[row]], context))
    return parts


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
