"""LayerSpec: a layer's sublayers, and the norms and residuals around them."""

import dataclasses
import enum
from dataclasses import dataclass

from models.architecture.attention import AttentionSpec, LatentSpec, QKNormSpec, QueryTemperature
from models.architecture.feed_forward import Activation, MLPSpec, MoESpec
from models.architecture.norm import NormSpec
from models.architecture.positions import RopeSpec
from models.architecture.recurrence import RecurrenceSpec, StateSpaceSpec, TokenShiftSpec

Mixer = AttentionSpec | RecurrenceSpec


@dataclass(frozen=True, slots=True)
class LayerInputSpec:
    """Inputs of layers besides the residual stream: for each token, a part of a table's row for each layer (per-layer
    embeddings: Gemma 3n).

    To that part, sqrt(size) times, comes norm(projection of the embedded token / sqrt(hidden size)); the sum over
    sqrt(2) is the layer's input p. The layer adds norm(out(act(gate x) * p)) to x, after feed-forward.
    """

    vocab_size: int  # later tokens have the input of token 0
    size: int  # of a layer's input
    activation: Activation
    norm: NormSpec


class NormPlacement(enum.Enum):
    """Position of a layer's norms relative to its two sublayers f, attention and feed-forward.

    A norm of x is called `attn_norm` or `mlp_norm`, a norm of the sublayer's output `attn_post_norm` or
    `mlp_post_norm`.
    """

    PRE = enum.auto()  # x + f(norm(x))
    POST = enum.auto()  # x + post_norm(f(x)): OLMo 2
    SANDWICH = enum.auto()  # x + post_norm(f(norm(x))): Gemma 2
    AFTER_SUM = enum.auto()  # norm(x + f(x)): the original transformer; with `skip_scale`, DeepNorm
    BEFORE_SKIP = enum.auto()  # h + f(h) with h = norm(x): MiniMax-01
    PARALLEL = enum.auto()  # x + attention(attn_norm(x)) + mlp(mlp_norm(x)): GPT-NeoX
    PARALLEL_ONE_NORM = enum.auto()  # x + attention(attn_norm(x)) + mlp(attn_norm(x)): GPT-J, Cohere


@dataclass(frozen=True, slots=True)
class StreamsSpec:
    """Several residual streams, while layers compute on one (AltUp, Baykal et al. 2023): Gemma 3n.

    A layer predicts all streams by x_i + sum_j P_ij x_j, computes on the active one, and adds to each its coefficient
    times what that changed. P and the coefficients are linear in tanh(router(norm(x) / hidden size)), of the active
    stream before and after. The streams begin as the embedding and projections of it with its length; the output is
    their mean, with the others projected and of the first one's length.
    """

    count: int
    active: int
    norm: NormSpec
    is_scaled: bool  # whether `layer_input` reads the active stream times learned numbers


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """Two sublayers, attention (or a recurrence in its place) and feed-forward, each added to the residual stream x.

    A layer may have only one of the two. A recurrence `beside` attention reads the same rows, and both are added to x.
    """

    mixer: Mixer | None  # None: feed-forward alone
    mlp: MLPSpec | MoESpec | None  # None: attention or a recurrence alone
    norm: NormSpec
    rope: RopeSpec | None = None
    placement: NormPlacement = NormPlacement.PRE
    beside: StateSpaceSpec | None = None  # with attention, PRE and without other scales: Falcon-H1
    mixer_scale: float = 1.0  # of the output of attention with a recurrence beside it
    sublayer_scale: float = 1.0  # of a sublayer's output before it is added: Granite
    skip_scale: float = 1.0  # of x before a sublayer's output is added; with AFTER_SUM or BEFORE_SKIP, DeepNorm's alpha
    mlp_sublayer_scale: float | None = None  # of the feed-forward sublayer alone; None: sublayer_scale
    mlp_skip_scale: float | None = None
    has_qkv_bias: bool = False
    has_out_bias: bool = False
    qk_norm: QKNormSpec | None = None
    alibi_slopes: tuple[float, ...] | None = None  # [H], with attention.has_alibi: see layers/attention/alibi.py
    query_temperature: QueryTemperature | None = None
    latent: LatentSpec | None = None  # with mixer = latent.attention(...)
    has_attn_norm: bool = True  # False: attention takes x as it is (ModernBERT's first layer); with PRE
    qkv_limit: float | None = None  # queries, keys and values are bounded to +-limit: OLMo, MPT
    heads_norm: NormSpec | None = None  # of all heads' outputs together, before the output projection: BitNet
    # Heads times sigmoid(gate x) before the output projection; a shard "gate" of qkv. With `latent` or
    # `gates_whole_heads` (LFM3), a number per head.
    has_output_gate: bool = False
    gates_whole_heads: bool = False
    has_value_matrix: bool = True  # False: values are the keys before their norm and rotary embedding (Gemma 4)
    value_norm: NormSpec | None = None  # of each head's values, without weight: Gemma 3n
    kv_layer: int | None = None  # an earlier layer, whose keys and values this one reads; it stores none: Gemma 3n
    layer_input: LayerInputSpec | None = None  # a third sublayer; the same in all layers
    streams: StreamsSpec | None = None  # with layer_input, which is added to all streams but the first
    # x becomes (x + attention + y + norm(W_r W_l y)) / sqrt(2), with y = attn_norm(x) and W_l y of this size: Gemma 3n.
    laurel_rank: int | None = None
    moe: MoESpec | None = None  # experts beside a dense MLP, both with norms of their outputs; in SANDWICH: Gemma 4
    has_output_scale: bool = False  # a learned factor of the layer's output, one number: Gemma 4
    mlp_shift: TokenShiftSpec | None = None  # of the MLP's input, with PRE: RWKV-7

    @property
    def attention(self) -> AttentionSpec:
        """The AttentionSpec of a layer that has attention."""
        assert isinstance(self.mixer, AttentionSpec)
        return self.mixer

    @property
    def dense_mlp(self) -> MLPSpec:
        """The MLPSpec of a layer that has an MLP, not experts in its place."""
        assert isinstance(self.mlp, MLPSpec)
        return self.mlp

    @property
    def recurrence(self) -> RecurrenceSpec | None:
        """The RecurrenceSpec of a layer that has a recurrence, alone or beside attention, or None."""
        return self.beside if self.mixer is None or isinstance(self.mixer, AttentionSpec) else self.mixer

    @property
    def experts(self) -> MoESpec | None:
        """The layer's mixture of experts, in place of an MLP or beside it, or None."""
        return self.mlp if isinstance(self.mlp, MoESpec) else self.moe

    @property
    def mixers(self) -> tuple[Mixer | TokenShiftSpec, ...]:
        """Attention, recurrence, and the shift before the MLP, in this order: the parts of the layer with a cache."""
        if self.kv_layer is not None:
            return ()
        return tuple(mixer for mixer in (self.mixer, self.beside, self.mlp_shift) if mixer is not None)

    @property
    def of_mlp(self) -> "LayerSpec":
        """The layer with the scales of its feed-forward sublayer."""
        scale = self.sublayer_scale if self.mlp_sublayer_scale is None else self.mlp_sublayer_scale
        skip = self.skip_scale if self.mlp_skip_scale is None else self.mlp_skip_scale
        return dataclasses.replace(self, sublayer_scale=scale, skip_scale=skip)

    def with_window(self, window: int | None) -> "LayerSpec":
        return dataclasses.replace(self, mixer=dataclasses.replace(self.attention, sliding_window=window))
