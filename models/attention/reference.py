"""ReferenceAttention: gathers the context by block table, tile by tile, and takes an fp32 softmax.

It runs on every device, and other back ends are tested against it.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from models.architecture.attention import AttentionSpec, IndexerSpec
from models.architecture.kv_layout import CODE_DTYPES, SCALE_DTYPE, CachePart, KVLayout, code_bytes, scale_slots
from models.attention.base import INDEX_PART, AttentionBackend
from models.attention.kv_codes import (
    Codes,
    hadamard_heads,
    has_spread_keys,
    has_spread_values,
    quantize_heads,
    quantized_kv_refusal,
)
from models.attention.rotary import RotaryEmbedding, rotary_embedding, rotate
from models.batch import DistanceBias, ForwardBatch, KVGroupBatch
from models.kv.key_center import RotatedCenter
from models.kv.layer import LayerKV

# Bounds of the fp32 temporaries, in elements: K (and V) of a tile of the context, padded, and a tile's scores.
_MAX_GATHERED = 1 << 22
_MAX_SCORES = 1 << 24
_TILE = 1024  # positions in a tile of the context of many rows
_SCALES, _STEPS = "_scale", "_step"  # ends of the names of parts with scales, and with steps of int4 keys


class ReferenceAttention(AttentionBackend):
    """Attention in torch. KV layout: keys and values in separate parts, [slots, num_kv_heads, head_dim] and
    [.., value_dim], in a floating dtype; or codes, with a part of scales for each, [slots, num_kv_heads, scale_slots].
    Codes of 4 bits are bytes as in `Codes`, and keys have a third part, of steps.

    If values are a part of the keys, only the keys are stored.
    """

    name = "reference"

    def unsupported(
        self,
        spec: AttentionSpec,
        dtype: torch.dtype,  # noqa: ARG002
        kv_dtype: torch.dtype,
        device: torch.device,  # noqa: ARG002
    ) -> str | None:
        if not kv_dtype.is_floating_point and kv_dtype not in CODE_DTYPES:
            return f"stores keys and values as numbers or codes of 4 or 8 bits, not as {kv_dtype}"
        return quantized_kv_refusal(spec, kv_dtype)

    def layout(self, spec: AttentionSpec, dtype: torch.dtype, kv_dtype: torch.dtype) -> KVLayout:
        sizes = {"k": spec.head_dim} if spec.values_from is not None else {"k": spec.head_dim, "v": spec.value_dim}
        if kv_dtype in CODE_DTYPES:
            return KVLayout(tuple(_coded_parts(sizes, spec.num_kv_heads, kv_dtype)), 1, dtype, code_dtype=kv_dtype)
        parts = [CachePart(name, (spec.num_kv_heads, size), kv_dtype) for name, size in sizes.items()]
        if spec.indexer is not None:
            parts.append(CachePart(INDEX_PART, (1, spec.indexer.head_dim), kv_dtype))
        return KVLayout(tuple(parts), 1, dtype)

    def write(self, kv: LayerKV, k: torch.Tensor, v: torch.Tensor | None, group: KVGroupBatch) -> None:
        if kv.layout.code_dtype is not None and kv.key_center is not None:
            k = k.to(torch.float32) - kv.key_center
        if has_spread_keys(kv.layout.code_dtype, has_values=v is not None):
            k = hadamard_heads(k)
        if v is not None and has_spread_values(kv.layout.code_dtype, has_values=True):
            v = hadamard_heads(v)
        for name, rows in (("k", k),) if v is None else (("k", k), ("v", v)):
            stored = kv.parts[name]
            if kv.layout.code_dtype is None:
                stored.index_copy_(0, group.slot_mapping, rows.to(stored.dtype))
                continue
            coded = quantize_heads(rows, kv.layout.code_dtype, is_key=name == "k")
            stored.view(torch.uint8).index_copy_(0, group.slot_mapping, coded.codes.view(torch.uint8))
            kv.parts[f"{name}{_SCALES}"][..., :1].index_copy_(0, group.slot_mapping, coded.scales)
            if coded.steps is not None:
                kv.parts[f"{name}{_STEPS}"].index_copy_(0, group.slot_mapping, coded.steps)

    def rotate_and_write_index(
        self, kv: LayerKV, q: torch.Tensor | None, k: torch.Tensor, rotary: RotaryEmbedding, group: KVGroupBatch
    ) -> torch.Tensor | None:
        stored = kv.parts[INDEX_PART]
        stored.index_copy_(0, group.slot_mapping, rotate(k, rotary).to(stored.dtype))
        return None if q is None else rotate(q, rotary)

    def choose(
        self,
        q: torch.Tensor,
        weights: torch.Tensor,
        kv: LayerKV,
        batch: ForwardBatch,
        group: KVGroupBatch,
        indexer: IndexerSpec,
    ) -> torch.Tensor:
        chosen = torch.full((len(q), indexer.topk), -1, dtype=torch.int32, device=q.device)
        end = 0
        for sequence, (num_rows, context) in enumerate(zip(batch.query_lens, batch.context_lens, strict=True)):
            start, end = end, end + num_rows
            tables = group.block_tables[sequence : sequence + 1]
            keys = _gather(kv, INDEX_PART, tables, 0, context, group.block_size)  # [1, C, 1, D]
            step = max(1, _MAX_SCORES // (context * indexer.num_heads))
            first = max(start, end - (context - indexer.topk))  # the first row that sees more than `topk` positions
            for row in range(first, end, step):
                rows = slice(row, min(row + step, end))
                chosen[rows] = _best(q[rows], weights[rows], keys[0, :, 0], batch.positions[rows], indexer.topk)
        return chosen

    def forward(
        self,
        q: torch.Tensor,
        kv: LayerKV,
        batch: ForwardBatch,
        group: KVGroupBatch,
        spec: AttentionSpec,
        *,
        alibi_slopes: torch.Tensor | None = None,
        sinks: torch.Tensor | None = None,
        chosen: torch.Tensor | None = None,
    ) -> torch.Tensor:
        out = q.new_empty((*q.shape[:2], spec.value_dim))
        if has_spread_keys(kv.layout.code_dtype, has_values=spec.values_from is None):
            q = hadamard_heads(q)
        for part in _parts(batch, spec):
            sequences = torch.tensor(part.sequences, device=q.device)  # [N]
            rows = torch.tensor(part.rows, device=q.device)  # [N, R]
            tables = group.block_tables[sequences]
            lengths = batch.seq_lens[sequences]
            softmax = OnlineSoftmax(
                q[rows],
                batch.positions[rows],
                lengths,
                spec,
                alibi_slopes,
                sinks,
                batch.distance_bias,
                None if chosen is None else chosen[rows],
            )
            for first, last in _tiles(part, spec, group.block_size):
                k = _gather(kv, "k", tables, first, last, group.block_size)
                if kv.rotated_center is not None:
                    k = k + hadamard_heads(_centers(kv.rotated_center, first, last))
                if spec.values_from is None:
                    v = _gather(kv, "v", tables, first, last, group.block_size)
                else:
                    v = k[..., spec.values_from :]
                softmax.add(first, k, v)
            result = softmax.result()
            if has_spread_values(kv.layout.code_dtype, has_values=spec.values_from is None):
                result = hadamard_heads(result)
            out[rows] = result.to(out.dtype)
        return out


class _Part(NamedTuple):
    """Rows that are computed together: single rows of several sequences, or consecutive rows of one sequence."""

    sequences: list[int]  # [N]
    rows: list[list[int]]  # [N, R]
    first: int  # smallest position of a row in its sequence
    context: int  # number of positions up to the last that a row sees


def _parts(batch: ForwardBatch, spec: AttentionSpec) -> list[_Part]:
    """Split all rows of the batch into parts whose temporary tensors are bounded."""
    parts: list[_Part] = []
    decodes: list[tuple[int, int, int]] = []  # (context, sequence, row)
    end = 0
    for sequence, (num_rows, context) in enumerate(zip(batch.query_lens, batch.context_lens, strict=True)):
        start, end = end, end + num_rows
        if num_rows == 1:
            decodes.append((context, sequence, start))
            continue
        step = max(1, _MAX_SCORES // (min(context, _TILE) * spec.num_heads))
        for first in range(start, end, step):
            last = min(first + step, end)
            furthest = context - (end - last) - 1  # position of the last row
            seen = spec.last_seen(furthest, context) + 1
            parts.append(_Part([sequence], [list(range(first, last))], context - (end - first), seen))
    return parts + _decode_parts(decodes, spec)


def _decode_parts(decodes: list[tuple[int, int, int]], spec: AttentionSpec) -> list[_Part]:
    """Group single-row sequences by context length, split where padding to the longest would gather too much."""
    parts: list[_Part] = []
    for context, sequence, row in sorted(decodes):
        num_before = len(parts[-1].sequences) if parts else 0
        if num_before and (num_before + 1) * context * spec.num_kv_heads * spec.head_dim <= _MAX_GATHERED:
            nearer = parts[-1]
            parts[-1] = _Part([*nearer.sequences, sequence], [*nearer.rows, [row]], nearer.first, context)
        else:
            parts.append(_Part([sequence], [[row]], context - 1, context))
    return parts


def _tiles(part: _Part, spec: AttentionSpec, block_size: int) -> Iterator[tuple[int, int]]:
    """Yield (first, last + 1) positions of the tiles of a part's context, in whole blocks."""
    num_rows = sum(map(len, part.rows))
    longest = min(
        _MAX_SCORES // (num_rows * spec.num_heads),
        _MAX_GATHERED // (len(part.sequences) * spec.num_kv_heads * spec.head_dim),
    )
    tile = max(1, longest // block_size) * block_size
    for first in range(spec.first_seen(part.first) // block_size * block_size, part.context, tile):
        yield first, min(first + tile, part.context)


def _coded_parts(sizes: dict[str, int], num_heads: int, code_dtype: torch.dtype) -> list[CachePart]:
    parts: list[CachePart] = []
    for name, size in sizes.items():
        num_codes, num_steps = code_bytes(size, code_dtype, is_key=name == "k")
        stored = torch.uint8 if code_dtype == torch.int4 else code_dtype
        parts.append(CachePart(name, (num_heads, num_codes), stored))
        parts.append(CachePart(f"{name}{_SCALES}", (num_heads, scale_slots(size)), SCALE_DTYPE))
        if num_steps:
            parts.append(CachePart(f"{name}{_STEPS}", (num_heads, num_steps), torch.uint8))
    return parts


def _gather(kv: LayerKV, name: str, tables: torch.Tensor, first: int, last: int, block_size: int) -> torch.Tensor:
    """Read positions first .. last - 1 of each sequence from a part, [slots, K, D]: [N, last - first, K, D], fp32."""
    blocks = tables[:, first // block_size : -(-last // block_size)].long()

    def read(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.unflatten(0, (-1, block_size))[blocks].flatten(1, 2)[:, : last - first]

    scales, steps = kv.parts.get(f"{name}{_SCALES}"), kv.parts.get(f"{name}{_STEPS}")
    if scales is None:
        return read(kv.parts[name]).to(torch.float32)
    codes = Codes(read(kv.parts[name]), read(scales[..., :1]), None if steps is None else read(steps))
    return codes.numbers() * codes.scales.to(torch.float32)


def _centers(center: RotatedCenter, first: int, last: int) -> torch.Tensor:
    """Return the centers of keys at positions first .. last - 1, rotated: [last - first, K, D]."""
    positions = torch.arange(first, last, device=center.heads.device)
    heads = center.heads[(positions > 0).long()]
    return rotate(heads, rotary_embedding(positions, center.rotation.frequencies, center.rotation.factor))


def _best(
    q: torch.Tensor, weights: torch.Tensor, keys: torch.Tensor, positions: torch.Tensor, topk: int
) -> torch.Tensor:
    """Return the positions with an indexer's highest scores, ascending: [R, topk]. q: [R, heads, D]. keys: [C, D]."""
    scores = torch.einsum("rhd,cd->rhc", q.to(torch.float32), keys).relu_()
    scores = torch.einsum("rhc,rh->rc", scores, weights.to(torch.float32))
    later = torch.arange(len(keys), device=q.device) > positions.unsqueeze(-1)
    order = scores.masked_fill(later, float("-inf")).sort(dim=-1, descending=True, stable=True).indices
    return order[:, :topk].sort(dim=-1).values.to(torch.int32)


class OnlineSoftmax:
    """Attention over a context that is added tile by tile; sums are kept relative to the largest score so far."""

    def __init__(
        self,
        q: torch.Tensor,
        positions: torch.Tensor,
        lengths: torch.Tensor,
        spec: AttentionSpec,
        alibi_slopes: torch.Tensor | None,
        sinks: torch.Tensor | None,
        distance_bias: DistanceBias | None,
        chosen: torch.Tensor | None = None,
    ) -> None:
        """q: [N, R, H, D] at positions [N, R] of sequences whose context has lengths [N]. chosen: [N, R, topk]."""
        self._heads = (spec.num_kv_heads, spec.num_heads // spec.num_kv_heads)
        self._queries = q.to(torch.float32).unflatten(2, self._heads)  # [N, R, K, H/K, D]
        self._positions = positions
        self._lengths = lengths
        self._spec = spec
        self._slopes = self._by_head(alibi_slopes)
        self._bias = distance_bias
        self._chosen = chosen
        shape = (q.shape[0], *self._heads, q.shape[1], 1)  # [N, K, H/K, R, 1]
        sink = self._by_head(sinks)
        self._largest = q.new_full(shape, float("-inf"), dtype=torch.float32) if sink is None else sink.expand(shape)
        self._total = q.new_full(shape, 0.0 if sink is None else 1.0, dtype=torch.float32)
        self._sum = self._queries.new_zeros((*shape[:-1], spec.value_dim))  # [N, K, H/K, R, value_dim]

    def add(self, first: int, k: torch.Tensor, v: torch.Tensor) -> None:
        """Add keys and values at positions first .. first + C - 1. k: [N, C, K, D], v: [N, C, K, value_dim], fp32."""
        scores, hidden = self._scores(first, k)
        # Only rounding depends on the largest score, so that gradients need not flow through it.
        largest = torch.maximum(self._largest, scores.detach().amax(dim=-1, keepdim=True))
        base = largest.masked_fill(largest == float("-inf"), 0.0)  # for rows that have seen no key yet
        weights, rescale = torch.exp(scores - base), torch.exp(self._largest - base)
        # Slots beyond a sequence's end hold anything, NaN too, and 0 * NaN would spread: only finite values may enter.
        seen = (~hidden).any(dim=1)[:, :, None, None]  # [N, C, 1, 1]
        added = torch.einsum("nkgrc,nckd->nkgrd", weights, torch.where(seen, v, 0.0))
        self._largest = largest
        self._total = self._total * rescale + weights.sum(dim=-1, keepdim=True)
        self._sum = self._sum * rescale + added

    def result(self) -> torch.Tensor:
        """Return the outputs [N, R, H, value_dim], fp32."""
        return (self._sum * (self._spec.value_scale / self._total)).movedim(3, 1).flatten(2, 3)

    def _scores(self, first: int, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scores [N, K, H/K, R, C], -inf where hidden, and whether a key is hidden from a row, [N, R, C]."""
        spec = self._spec
        scores = torch.einsum("nrkgd,nckd->nkgrc", self._queries, k) * spec.scale
        if spec.logit_softcap is not None:
            scores = spec.logit_softcap * torch.tanh(scores / spec.logit_softcap)
        keys = torch.arange(first, first + k.shape[1], device=k.device)
        distance = self._positions.unsqueeze(-1) - keys  # [N, R, C], query minus key
        if self._slopes is not None:
            scores = scores - self._slopes * distance[:, None, None]
        if self._bias is not None:
            columns = self._bias.zero_column - distance  # [N, R, C]
            columns = columns.clamp(0, self._bias.table.shape[1] - 1)  # hidden keys may be beyond the table
            scores = scores + self._bias.table[:, columns].unflatten(0, self._heads).movedim(2, 0)
        if spec.is_causal:
            hidden = distance < 0
        else:
            hidden = (keys >= self._lengths[:, None, None]).expand(distance.shape).clone()
        if spec.sliding_window is not None:
            hidden |= distance.abs() >= spec.sliding_window
        if spec.chunk is not None:
            hidden |= distance > self._positions.unsqueeze(-1) % spec.chunk
        if self._chosen is not None:
            hidden |= ~self._is_chosen(first, k.shape[1])
        return scores.masked_fill(hidden[:, None, None], float("-inf")), hidden

    def _is_chosen(self, first: int, count: int) -> torch.Tensor:
        """Return whether an indexer chose positions first .. first + count - 1 for a row: [N, R, count]."""
        assert self._chosen is not None
        columns = self._chosen.long() - first  # [N, R, topk]
        columns = torch.where((columns >= 0) & (columns < count), columns, count)
        is_chosen = torch.zeros(*columns.shape[:2], count + 1, dtype=torch.bool, device=columns.device)
        is_chosen.scatter_(-1, columns, True)
        return is_chosen[..., :count] | (self._chosen[..., :1] < 0)

    def _by_head(self, values: torch.Tensor | None) -> torch.Tensor | None:
        """Reshape [H] to [1, K, H/K, 1, 1], fp32."""
        return None if values is None else values.to(torch.float32).view(1, *self._heads, 1, 1)
