"""DecoderSpec: what a transformer computes, as plain frozen data that a family's describe() returns.

An encoder is one, too, whose layers see both ways and which has no output layer (`DecoderSpec.is_encoder`).

Every technique that a family can choose is a field here; layers are composed from it when they are built. What is only
stored differently (rotary pairs side by side, norm weights minus 1, fused or stacked matrices) is not here: it is a
transform in the family's map of names (families/transforms.py).
"""

import dataclasses
import enum
from collections.abc import Callable
from dataclasses import dataclass


class NormKind(enum.Enum):
    RMS = enum.auto()
    LAYER = enum.auto()  # mean subtracted


class Activation(enum.Enum):
    SILU = enum.auto()
    GELU = enum.auto()  # x * Phi(x), exactly
    GELU_TANH = enum.auto()
    GELU_QUICK = enum.auto()  # x * sigmoid(1.702 x)
    RELU = enum.auto()
    RELU_SQUARED = enum.auto()
    TANH = enum.auto()  # of heads that score texts, alone


class NormPlacement(enum.Enum):
    """Where a layer's norms are, relative to its two sublayers f, attention and feed-forward.

    A norm of x is called `attn_norm` or `mlp_norm`, one of the sublayer's output `attn_post_norm` or `mlp_post_norm`.
    """

    PRE = enum.auto()  # x + f(norm(x))
    POST = enum.auto()  # x + post_norm(f(x)): OLMo 2
    SANDWICH = enum.auto()  # x + post_norm(f(norm(x))): Gemma 2
    AFTER_SUM = enum.auto()  # norm(x + f(x)): the original transformer; with `skip_scale`, DeepNorm
    PARALLEL = enum.auto()  # x + attention(attn_norm(x)) + mlp(mlp_norm(x)): GPT-NeoX
    PARALLEL_ONE_NORM = enum.auto()  # the same with attn_norm for both: GPT-J, Cohere


@dataclass(frozen=True, slots=True)
class NormSpec:
    kind: NormKind
    eps: float
    has_weight: bool = True
    has_bias: bool = False


# --- positions -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """All rotary frequencies divided by `factor` (position interpolation: Chen et al. 2023)."""

    factor: float


@dataclass(frozen=True, slots=True)
class DynamicScaling:
    """theta raised as far as the longest served context needs ("dynamic NTK").

    Unlike in transformers it does not change while a sequence grows: keys in the cache are rotated once, and shared.
    """

    factor: float
    original_max_position: int


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """Interpolation of slow dimensions, none of fast ones, warmer attention (Peng et al. 2023)."""

    factor: float
    original_max_position: int
    attention_factor: float  # of cos and sin
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    rounds_bounds: bool = True  # the band between fast and slow ends at whole dimensions


@dataclass(frozen=True, slots=True)
class LongRopeScaling:
    """A factor for each frequency, from one of two sets (Ding et al. 2024).

    The long set is used for all contexts if any beyond `original_max_position` is served, as in vLLM: keys in the cache
    are rotated once, so a sequence cannot change sets when it grows.
    """

    short_factors: tuple[float, ...]  # [rotary_dim / 2]
    long_factors: tuple[float, ...]
    original_max_position: int
    attention_factor: float  # of cos and sin, in both


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Low frequencies divided by `factor`, high ones unchanged, a linear blend between (Llama 3.1 and later)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int


@dataclass(frozen=True, slots=True)
class FrequencyFactors:
    """Each rotary frequency divided by a factor of its own: how GGUF files state Llama 3's scaling."""

    factors: tuple[float, ...]  # [rotary_dim / 2]


RopeScaling = LinearScaling | DynamicScaling | YarnScaling | LongRopeScaling | Llama3Scaling | FrequencyFactors


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary embedding of the first `rotary_dim` dimensions of a head; dimension d is paired with d + rotary_dim / 2.

    Checkpoints made for neighboring pairs (2d, 2d + 1), as GPT-J's, are permuted into this order when they are loaded:
    the same permutation of a query's and a key's dimensions does not change their product (transforms.unpermute_q).
    """

    rotary_dim: int
    theta: float
    scaling: RopeScaling | None = None


# --- attention -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """One layer's attention: softmax(scale * q k^T + bias) v over the context before a query, or all of it, or a part.

    What is not causal needs a sequence's whole context in one step.
    """

    num_heads: int  # H
    num_kv_heads: int  # K; H / K query heads share each
    head_dim: int  # D, of queries and keys
    scale: float
    sliding_window: int | None = (
        None  # a query sees itself and the window - 1 positions before (after, too, if not causal)
    )
    chunk: int | None = None  # a query sees its own chunk of positions; chunks start at multiples of it (Llama 4)
    logit_softcap: float | None = None  # cap * tanh(logits / cap)
    has_alibi: bool = False  # slopes [H] are an argument of forward
    has_sinks: bool = False  # an extra logit per head that only takes part in the softmax's sum
    values_from: int | None = None  # v is k[values_from:], so that only keys are stored; None: v is stored beside k
    is_causal: bool = True  # a query sees no later positions

    def first_seen(self, position: int) -> int:
        """The first position that a query at `position` sees."""
        if self.chunk is not None:
            return position // self.chunk * self.chunk
        return 0 if self.sliding_window is None else max(0, position - self.sliding_window + 1)

    def last_seen(self, position: int, context: int) -> int:
        """The last position that a query at `position` sees, of `context` in all."""
        if self.is_causal:
            return position
        return context - 1 if self.sliding_window is None else min(context - 1, position + self.sliding_window - 1)

    @property
    def value_dim(self) -> int:
        """Size of a value, and of a head's output."""
        return self.head_dim - (self.values_from or 0)


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
    """Queries times 1 + scale * ln(1 + floor((position + offset) / floor_scale)): Llama 4, Ministral 3."""

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
    rope_dim: int  # of their rotary part, which comes first
    value_dim: int  # of a head
    norm: NormSpec  # of both latents

    def attention(self, num_heads: int, scale: float) -> AttentionSpec:
        return AttentionSpec(num_heads, 1, self.rope_dim + self.kv_rank, scale, values_from=self.rope_dim)


# --- recurrence, in attention's place --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ShortConvSpec:
    """out(c * conv(b * v)) for the rows b, c, v = in_proj(x) (LFM2). conv: depthwise, over the row and the
    kernel_size - 1 before it, whose b * v are the layer's state."""

    num_channels: int
    kernel_size: int
    has_bias: bool = False  # of the convolution and both matrices


@dataclass(frozen=True, slots=True)
class GatedDeltaSpec:
    """Linear attention by the gated delta rule (Yang et al. 2024; Qwen3-Next).

    The state of a head is a matrix S that maps keys to values. Each row decays it by a, corrects its value for the
    row's key by the fraction b, and reads it with the row's query:

        S' = a S,   S'' = S' + k (b (v - k^T S'))^T,   y = q^T S''

    q, k and v have passed a short convolution (its last kernel_size - 1 inputs are state, too) and SiLU; q and k have
    length 1. a = exp(-exp(A_log) softplus(in_a(x) + dt_bias)), b = sigmoid(in_b(x)). The output is
    out(norm(y) * silu(z)) with z = in_z(x). Several value heads share a key head.
    """

    num_key_heads: int
    num_value_heads: int
    key_dim: int  # of a head
    value_dim: int
    kernel_size: int
    norm: NormSpec  # over a head
    tiles_key_heads: bool = False  # value head h takes key head h modulo their number, not h divided by it: GGUF

    @property
    def conv_size(self) -> int:
        """Channels of q, k and v together."""
        return 2 * self.num_key_heads * self.key_dim + self.value_size

    @property
    def value_size(self) -> int:
        return self.num_value_heads * self.value_dim


RecurrenceSpec = ShortConvSpec | GatedDeltaSpec


# --- feed-forward ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SwigluClamp:
    """gate * sigmoid(alpha * gate) * (up + 1), gate at most `limit` and up within +-limit (gpt-oss)."""

    alpha: float
    limit: float


@dataclass(frozen=True, slots=True)
class MLPSpec:
    """down(act(gate x) * up x) if gated, else down(act(up x))."""

    intermediate_size: int
    activation: Activation
    is_gated: bool
    has_up_bias: bool = False  # and gate bias
    has_down_bias: bool = False
    clamp: SwigluClamp | None = None  # in place of the activation


class RouterScore(enum.Enum):
    """How the router's logits become scores."""

    SOFTMAX = enum.auto()
    SIGMOID = enum.auto()


class GroupScore(enum.Enum):
    """How a group of experts is scored."""

    BEST = enum.auto()  # by its best expert: DeepSeek V2
    BEST_TWO = enum.auto()  # by the sum of its best two: DeepSeek V3


@dataclass(frozen=True, slots=True)
class RouterSpec:
    """Which experts a row is sent to, and with which weights.

    score(W x + b) scores the experts; `correction`, a bias learned for balance, takes part in the choice but not in the
    weights. A softmax over only the chosen logits is SOFTMAX with `renormalizes`.
    """

    score: RouterScore
    experts_per_token: int
    renormalizes: bool  # weights of the chosen sum to 1
    has_bias: bool = False
    has_correction: bool = False
    num_groups: int = 1  # of experts; only experts in the best groups can be chosen
    groups_per_token: int = 1
    group_score: GroupScore = GroupScore.BEST
    scale: float = 1.0  # of the weights, applied last
    scales_input: bool = False  # weights multiply an expert's input, not its output: Llama 4


@dataclass(frozen=True, slots=True)
class MoESpec:
    """Weighted sum of the chosen experts' outputs, plus the output of the shared expert, which gets every row."""

    num_experts: int
    expert: MLPSpec
    router: RouterSpec
    shared: MLPSpec | None = None
    has_shared_gate: bool = False  # shared output times sigmoid(w . x): Qwen2-MoE

    def contradiction(self) -> str | None:
        """Why no row can be routed like this, or None. The kernels rely on it."""
        router, size = self.router, self.num_experts // self.router.num_groups
        if self.num_experts % router.num_groups or router.groups_per_token > router.num_groups:
            chosen = f"{router.groups_per_token} of {router.num_groups} groups"
            return f"{chosen} cannot be chosen from {self.num_experts} experts"
        if router.group_score is GroupScore.BEST_TWO and router.num_groups > 1 and size < 2:
            return (
                f"groups are rated by two experts, and {router.num_groups} groups of {self.num_experts} have one each"
            )
        if router.experts_per_token > size * router.groups_per_token:
            return f"{router.experts_per_token} experts a token are more than {size * router.groups_per_token}"
        return None


# --- the whole -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """Two sublayers, attention (or a recurrence in its place) and feed-forward, each added to the residual stream x."""

    mixer: AttentionSpec | RecurrenceSpec
    mlp: MLPSpec | MoESpec
    norm: NormSpec
    rope: RopeSpec | None = None
    placement: NormPlacement = NormPlacement.PRE
    sublayer_scale: float = 1.0  # of a sublayer's output before it is added: Granite
    skip_scale: float = 1.0  # of x before a sublayer's output is added; with AFTER_SUM, DeepNorm's alpha
    has_qkv_bias: bool = False
    has_out_bias: bool = False
    qk_norm: QKNormSpec | None = None
    alibi_slopes: tuple[float, ...] | None = None  # [H], with attention.has_alibi: see layers/alibi.py
    query_temperature: QueryTemperature | None = None
    latent: LatentSpec | None = None  # with mixer = latent.attention(...)
    has_attn_norm: bool = True  # False: attention takes x as it is (ModernBERT's first layer); with PRE
    has_output_gate: bool = False  # heads times sigmoid(gate x) before the output projection; a shard "gate" of qkv

    @property
    def attention(self) -> AttentionSpec:
        """The mixer of a layer with attention."""
        assert isinstance(self.mixer, AttentionSpec)
        return self.mixer

    @property
    def recurrence(self) -> RecurrenceSpec | None:
        """The mixer of a layer with a recurrence, or None."""
        return None if isinstance(self.mixer, AttentionSpec) else self.mixer

    def with_window(self, window: int | None) -> "LayerSpec":
        return dataclasses.replace(self, mixer=dataclasses.replace(self.attention, sliding_window=window))


class TokenPooling(enum.Enum):
    """How the last hidden states of a text's tokens become one vector."""

    MEAN = enum.auto()
    CLS = enum.auto()  # the first token's
    LAST = enum.auto()
    MAX = enum.auto()  # the largest number of each dimension
    MEAN_SQRT_LENGTH = enum.auto()  # the sum, divided by the root of the length
    WEIGHTED_MEAN = enum.auto()  # the n-th token counts n times


@dataclass(frozen=True, slots=True)
class ScoreHeadSpec:
    """Scores of a text: out(norm(activation(dense(pooled)))), without what is None."""

    num_labels: int
    pooling: TokenPooling
    dense_activation: Activation | None = None  # None: no dense layer
    has_dense_bias: bool = True
    norm: NormSpec | None = None
    has_bias: bool = True


@dataclass(frozen=True, slots=True)
class RelativeBiasSpec:
    """A number for each head and bucket of distances, which all layers add to their logits (T5: Raffel et al. 2020)."""

    num_buckets: int  # half of them for keys before the query
    max_distance: int  # from which on all are in the last one


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    vocab_size: int
    hidden_size: int
    max_position: int  # longest context the checkpoint claims
    layers: tuple[LayerSpec, ...]
    final_norm: NormSpec | None  # None where the last layer ends with a norm of its own (AFTER_SUM)
    has_tied_head: bool  # the output layer is the token embedding
    embedding_size: int | None = None  # of the token embedding, if it is projected to hidden_size and back: OPT
    has_learned_positions: bool = False  # a table of max_position embeddings
    has_head_bias: bool = False
    embedding_norm: NormSpec | None = None  # BLOOM
    embedding_scale: float = 1.0
    logit_scale: float = 1.0
    logit_softcap: float | None = None  # cap * tanh(logits / cap)
    num_token_types: int = 0  # rows of a table that is added to the token embedding: BERT
    relative_bias: RelativeBiasSpec | None = None
    has_head: bool = True  # an output layer
    score_head: ScoreHeadSpec | None = None

    @property
    def is_encoder(self) -> bool:
        """Whether a token's hidden state depends on later ones."""
        return not all(spec.is_causal for spec in self.attention_specs)

    @property
    def attention_specs(self) -> list[AttentionSpec]:
        """Of the layers that have attention."""
        return [layer.mixer for layer in self.layers if isinstance(layer.mixer, AttentionSpec)]

    def map_layers(self, change: Callable[[int, LayerSpec], LayerSpec]) -> "DecoderSpec":
        """The same decoder with each layer replaced by change(index, layer)."""
        return dataclasses.replace(self, layers=tuple(change(index, layer) for index, layer in enumerate(self.layers)))
