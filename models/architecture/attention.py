"""AttentionSpec, with norms of queries and keys, temperatures of queries, latent attention, and indexers."""

import enum
from dataclasses import dataclass

from models.architecture.norm import NormSpec


@dataclass(frozen=True, slots=True)
class IndexerSpec:
    """Choice of the positions that a query attends to: the `topk` that it can see with the highest scores, the earlier
    one of equals; all if it sees no more (DeepSeek V3.2).

    score(t, p) = sum over heads h of w[t, h] * max(0, q[t, h] . k[p]). Queries and weights are the indexer's own, and
    so is the one key for all heads, which is stored beside the layer's. The layer's rotary embedding applies to the
    first dimensions of queries and keys.
    """

    num_heads: int
    head_dim: int  # of queries and keys
    topk: int
    norm: NormSpec  # of keys


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """Attention of one layer: softmax(scale * q k^T + bias) v, over a query's whole context or a window or chunk of it.

    Attention that is not causal needs a sequence's whole context in one step.
    """

    num_heads: int  # H
    num_kv_heads: int  # K; H / K query heads share a key head
    head_dim: int  # D, of queries and keys
    scale: float
    # A query sees itself and the window - 1 positions before (and after, if not causal).
    sliding_window: int | None = None
    chunk: int | None = None  # a query sees its own chunk of positions; chunks start at multiples of it (Llama 4)
    logit_softcap: float | None = None  # cap * tanh(logits / cap)
    has_alibi: bool = False  # slopes [H] are an argument of forward
    has_sinks: bool = False  # an extra logit per head that only takes part in the softmax's sum
    values_from: int | None = None  # v is k[values_from:], so that only keys are stored; None: v is stored, too
    value_size: int | None = None  # of a stored value; None: as large as a key
    value_scale: float = 1.0  # factor of values, and so of a head's output
    is_causal: bool = True  # a query sees no later positions
    indexer: IndexerSpec | None = None  # chooses the positions that a query sees; with LatentSpec
    reuses_choice: bool = False  # a query sees the positions that the last layer with an indexer chose; with LatentSpec

    def first_seen(self, position: int) -> int:
        """Return the first position that a query at `position` sees."""
        if self.chunk is not None:
            return position // self.chunk * self.chunk
        return 0 if self.sliding_window is None else max(0, position - self.sliding_window + 1)

    def last_seen(self, position: int, context: int) -> int:
        """Return the last position that a query at `position` sees. context: the sequence's number of positions."""
        if self.is_causal:
            return position
        return context - 1 if self.sliding_window is None else min(context - 1, position + self.sliding_window - 1)

    @property
    def value_dim(self) -> int:
        """Size of a value, and of a head's output."""
        return self.value_size or self.head_dim - (self.values_from or 0)

    @property
    def stored_size(self) -> int:
        """Numbers that a position stores for each key head: its key, and its value unless that is a part of the key."""
        return self.head_dim + (self.value_dim if self.values_from is None else 0)


class QKNormScope(enum.Enum):
    HEAD = enum.auto()  # over each head, one weight [D] for all: Qwen3
    HEAD_OWN_WEIGHTS = enum.auto()  # over each head, weights [heads, D]: Cohere, StableLM 2
    PROJECTION = enum.auto()  # over all heads of a row together: OLMo 2


@dataclass(frozen=True, slots=True)
class QKNormSpec:
    """Norms of queries and keys, `attn.q_norm` and `attn.k_norm`."""

    norm: NormSpec
    scope: QKNormScope = QKNormScope.HEAD
    is_after_rope: bool = False  # Llama 4


@dataclass(frozen=True, slots=True)
class QueryTemperature:
    """Factor of queries, 1 + scale * ln(1 + floor((position + offset) / floor_scale)): Llama 4, Ministral 3."""

    scale: float
    floor_scale: float
    offset: int


@dataclass(frozen=True, slots=True)
class LatentSpec:
    """Multi-head latent attention (DeepSeek V2): keys and values of all heads are projections of one small vector per
    token, and only that vector is cached.

    A head compares its query with k = [rotary part, shared by all heads | W_k latent]. Since q . (W_k c) = (q W_k) . c,
    the query absorbs the head's W_k, and the cached latent c is both key and value of all heads; the head's W_v is
    applied to the output of attention. So for the KV cache this is attention with a single key head (`attention`).
    """

    q_rank: int | None  # of the queries' own latent; None: queries are a projection of x
    kv_rank: int
    nope_dim: int  # of a head's query and key, without rotary embedding
    rope_dim: int  # of the rotary part of a query and key, which comes first
    value_dim: int  # of a head
    norm: NormSpec  # of the queries' latent and of the cached latent

    def attention(self, num_heads: int, scale: float) -> AttentionSpec:
        """Return the attention over cached latents, with W_k absorbed: one key head, values are a part of the keys."""
        return AttentionSpec(num_heads, 1, self.rope_dim + self.kv_rank, scale, values_from=self.rope_dim)
