"""TrainAttention: attention within each sequence of a batch, with gradients and without a cache."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from models.architecture.attention import AttentionSpec
from models.architecture.kv_layout import KVLayout
from models.attention.base import AttentionBackend
from models.attention.reference import OnlineSoftmax
from models.batch import ForwardBatch, KVGroupBatch
from models.kv.layer import LayerKV


@dataclass(slots=True, eq=False)
class SequenceRows(LayerKV):
    """Keys and values of a training step's own rows, in place of a layer's KV cache.

    prefixes: for each sequence of the batch, the index of the sequence that is its prefix (and has no prefix itself),
    or None. Rows attend to their whole prefix. None in place of the list: no sequence has a prefix. is_shared: whether
    later layers read the rows, too.
    """

    prefixes: Sequence[int | None] | None = None
    is_shared: bool = False
    k: torch.Tensor | None = None
    v: torch.Tensor | None = None

    def with_prefixes(self, parts: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """Return `parts`, the rows of each sequence, each preceded by the rows of the sequence's prefix."""
        if self.prefixes is None:
            return parts
        pairs = zip(parts, self.prefixes, strict=True)
        return [part if prefix is None else torch.cat((parts[prefix], part)) for part, prefix in pairs]


class TrainAttention(AttentionBackend):
    """Attention of a decoder in training: with gradients in training steps; by the serving back end in generation.

    If a layer's cache is SequenceRows, rows attend to the rows of their own sequence, and gradients flow. If it is a
    paged KV cache, `serving` writes it and attends. Norms and rotary embedding are computed by torch in both cases.
    """

    name = "training"
    takes_any_rows = False

    def __init__(self, serving: AttentionBackend) -> None:
        self.serving = serving

    def unsupported(
        self, spec: AttentionSpec, dtype: torch.dtype, kv_dtype: torch.dtype, device: torch.device
    ) -> str | None:
        if spec.indexer is not None:
            return "computes no gradients of attention to positions that an indexer chooses"
        return self.serving.unsupported(spec, dtype, kv_dtype, device)

    def layout(self, spec: AttentionSpec, dtype: torch.dtype, kv_dtype: torch.dtype) -> KVLayout:
        return self.serving.layout(spec, dtype, kv_dtype)

    def write(self, kv: LayerKV, k: torch.Tensor, v: torch.Tensor | None, group: KVGroupBatch) -> None:
        if isinstance(kv, SequenceRows):
            kv.k, kv.v = k, v
        else:
            self.serving.write(kv, k.contiguous(), None if v is None else v.contiguous(), group)

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
        assert chosen is None
        if not isinstance(kv, SequenceRows):
            return self.serving.forward(q.contiguous(), kv, batch, group, spec, alibi_slopes=alibi_slopes, sinks=sinks)
        k, v = kv.k, kv.v
        if not kv.is_shared:
            kv.k = kv.v = None  # the graph holds what it needs
        assert k is not None
        if v is None:
            assert spec.values_from is not None
            v = k[..., spec.values_from :]
        lengths = list(batch.query_lens)
        q_parts, k_parts, v_parts = (rows.split_with_sizes(lengths) for rows in (q, k, v))
        sequences = zip(q_parts, kv.with_prefixes(k_parts), kv.with_prefixes(v_parts), strict=True)
        return torch.cat([_attend(*each, spec, alibi_slopes, sinks) for each in sequences])


_MAX_SHORT = 128  # tokens; the fused operator is faster for longer sequences, and four times slower for shorter ones


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    spec: AttentionSpec,
    alibi_slopes: torch.Tensor | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Attend from a sequence's last T tokens: q [T, H, D], k [C, K, D], v [C, K, value_dim] -> [T, H, value_dim]."""
    length, context = len(q), len(k)
    sees_all = all(size is None or context <= size for size in (spec.sliding_window, spec.chunk))
    if not sees_all or spec.logit_softcap is not None or alibi_slopes is not None or sinks is not None:
        positions = torch.arange(context - length, context, device=q.device)  # of the queries
        lengths = torch.tensor([context], device=q.device)
        softmax = OnlineSoftmax(q[None], positions[None], lengths, spec, alibi_slopes, sinks, None)
        softmax.add(0, k[None].to(torch.float32), v[None].to(torch.float32))
        return softmax.result()[0].to(q.dtype)
    q, k, v = q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)  # [heads, T or C, D]
    v = v if spec.value_scale == 1.0 else v * spec.value_scale
    if context <= _MAX_SHORT:
        return _attend_short(q, k, v, spec)
    shared = spec.num_heads // spec.num_kv_heads
    if shared > 1:
        k, v = k.repeat_interleave(shared, dim=0), v.repeat_interleave(shared, dim=0)
    if length == context:
        attended = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True, scale=spec.scale)
    else:
        seen = ~_later(length, context, q.device)
        attended = F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=seen, scale=spec.scale)
    return attended[0].transpose(0, 1)


def _attend_short(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, spec: AttentionSpec) -> torch.Tensor:
    """Attend over a short context by two matrix products and a softmax in fp32. q, k, v: [heads, T or C, D]."""
    length, context = q.shape[1], k.shape[1]
    grouped = q.reshape(spec.num_kv_heads, -1, spec.head_dim)  # [K, H / K * T, D]: heads that share a key head
    scores = torch.bmm(grouped, k.transpose(1, 2)).to(torch.float32) * spec.scale
    scores = scores.view(spec.num_heads, length, context).masked_fill(_later(length, context, q.device), float("-inf"))
    weights = scores.softmax(dim=-1).to(v.dtype).view(spec.num_kv_heads, -1, context)
    attended = torch.bmm(weights, v).view(spec.num_heads, length, spec.value_dim)
    return attended.transpose(0, 1)


def _later(length: int, context: int, device: torch.device) -> torch.Tensor:
    """Return the causal mask [T, C], bool, for the last T of C tokens: true for keys after the query."""
    return torch.ones(length, context, dtype=torch.bool, device=device).triu(1 + context - length)
