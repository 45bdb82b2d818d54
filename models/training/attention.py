"""TrainAttention: attention within each sequence of a batch, with gradients and without a cache."""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F

from models.architecture.attention import AttentionSpec
from models.attention.base import AttentionBackend
from models.batch import ForwardBatch, KVGroupBatch


@dataclass(slots=True, eq=False)
class SequenceRows:
    """Takes the place of a layer's cache in a training step: the keys and values of the rows themselves."""

    dtype: torch.dtype
    k: torch.Tensor | None = None
    v: torch.Tensor | None = None

    @classmethod
    def cache(cls, dtype: torch.dtype) -> torch.Tensor:
        """One for a layer; in the type of what it replaces, which back ends alone look into."""
        return cast(torch.Tensor, cls(dtype))


class TrainAttention(AttentionBackend):
    """Where a layer's cache is SequenceRows, rows attend to those of their own sequence, and gradients flow.

    Where it is a KV tensor, `serving` stores and attends: so the same decoder generates, with and without an adapter.
    Norms and rotary embedding are computed by torch in both.
    """

    name = "training"

    def __init__(self, serving: AttentionBackend) -> None:
        self.serving = serving

    def unsupported(self, spec: AttentionSpec, dtype: torch.dtype, device: torch.device) -> str | None:
        return self.serving.unsupported(spec, dtype, device)

    def kv_shape(self, spec: AttentionSpec, num_blocks: int, block_size: int) -> tuple[int, ...]:
        return self.serving.kv_shape(spec, num_blocks, block_size)

    def write(self, kv: torch.Tensor, k: torch.Tensor, v: torch.Tensor | None, group: KVGroupBatch) -> None:
        if isinstance(kv, SequenceRows):
            kv.k, kv.v = k, v
        else:
            self.serving.write(kv, k.contiguous(), None if v is None else v.contiguous(), group)

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
        if not isinstance(kv, SequenceRows):
            return self.serving.forward(q.contiguous(), kv, batch, group, spec, alibi_slopes=alibi_slopes, sinks=sinks)
        k, v = kv.k, kv.v
        kv.k = kv.v = None  # the graph holds what it needs
        assert k is not None
        if v is None:
            assert spec.values_from is not None
            v = k[..., spec.values_from :]
        lengths = list(batch.query_lens)
        q_parts, k_parts, v_parts = (rows.split_with_sizes(lengths) for rows in (q, k, v))
        sequences = zip(q_parts, k_parts, v_parts, strict=True)
        return torch.cat([_attend(*each, spec, alibi_slopes, sinks) for each in sequences])


_MAX_SHORT = 128  # tokens: for longer sequences the fused operator is faster, for shorter ones four times slower


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    spec: AttentionSpec,
    alibi_slopes: torch.Tensor | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """One sequence from its first token: q [T, H, D], k [T, K, D], v [T, K, value_dim] -> [T, H, value_dim]."""
    length = len(q)
    sees_all = all(size is None or length <= size for size in (spec.sliding_window, spec.chunk))
    q, k, v = q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)  # [heads, T, D]
    if sees_all and spec.logit_softcap is None and alibi_slopes is None and sinks is None:
        if length <= _MAX_SHORT:
            return _attend_shortly(q, k, v, spec)
        shared = spec.num_heads // spec.num_kv_heads
        if shared > 1:
            k, v = k.repeat_interleave(shared, dim=0), v.repeat_interleave(shared, dim=0)
        attended = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True, scale=spec.scale)
        return attended[0].transpose(0, 1)
    return _attend_by_definition(q, k, v, spec, alibi_slopes, sinks).to(q.dtype)


def _attend_shortly(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, spec: AttentionSpec) -> torch.Tensor:
    """As `_attend`, of [heads, T, D], by two products of matrices with a softmax in fp32 between."""
    length = q.shape[1]
    grouped = q.reshape(spec.num_kv_heads, -1, spec.head_dim)  # [K, H / K * T, D]: heads that share a key head
    scores = torch.bmm(grouped, k.transpose(1, 2)).to(torch.float32) * spec.scale
    hidden = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
    scores = scores.view(spec.num_heads, length, length).masked_fill(hidden, float("-inf"))
    weights = scores.softmax(dim=-1).to(v.dtype).view(spec.num_kv_heads, -1, length)
    attended = torch.bmm(weights, v).view(spec.num_heads, length, spec.value_dim)
    return attended.transpose(0, 1)


def _attend_by_definition(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    spec: AttentionSpec,
    alibi_slopes: torch.Tensor | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """As `_attend`, of [heads, T, D]; in fp32."""
    queries, keys, values = (rows.to(torch.float32) for rows in (q, k, v))
    queries = queries.unflatten(0, (spec.num_kv_heads, -1))  # [K, H / K, T, D]
    scores = torch.einsum("kgtd,kcd->kgtc", queries, keys) * spec.scale
    if spec.logit_softcap is not None:
        scores = spec.logit_softcap * torch.tanh(scores / spec.logit_softcap)
    positions = torch.arange(scores.shape[-1], device=scores.device)
    distance = positions[:, None] - positions  # [T, C], query minus key
    if alibi_slopes is not None:
        scores = scores - alibi_slopes.view(spec.num_kv_heads, -1, 1, 1) * distance
    hidden = distance < 0
    if spec.sliding_window is not None:
        hidden = hidden | (distance >= spec.sliding_window)
    if spec.chunk is not None:
        hidden = hidden | (distance > positions[:, None] % spec.chunk)
    scores = scores.masked_fill(hidden, float("-inf"))
    if sinks is not None:
        sink = sinks.to(torch.float32).view(spec.num_kv_heads, -1, 1, 1).expand(*scores.shape[:-1], 1)
        scores = torch.cat((scores, sink), dim=-1)
    weights = scores.softmax(dim=-1)[..., : len(positions)]
    attended = torch.einsum("kgtc,kcd->tkgd", weights, values)
    return attended.flatten(1, 2)
