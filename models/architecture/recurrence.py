"""Recurrences that replace attention in a layer."""

import enum
import math
from dataclasses import dataclass

from models.architecture.norm import NormSpec


@dataclass(frozen=True, slots=True)
class ShortConvSpec:
    """A gated short convolution (LFM2): out(c * conv(b * v)) for the rows b, c, v = in_proj(x).

    conv is depthwise, over the row and the kernel_size - 1 rows before it, whose b * v are the layer's state.
    """

    num_channels: int
    kernel_size: int
    has_bias: bool = False  # of the convolution, in_proj and out


@dataclass(frozen=True, slots=True)
class GatedDeltaSpec:
    """Linear attention by the gated delta rule (Yang et al. 2024; Qwen3-Next, OLMo Hybrid, Kimi Linear).

    The state of a head is a matrix S [K, V] that maps keys to values. Each row decays it by a, corrects its value for
    the row's key by the fraction b, and reads it with the row's query:

        S' = a S,   S'' = S' + k (b (v - k^T S'))^T,   y = q^T S''

    q, k and v have passed a short convolution (its last kernel_size - 1 inputs are state, too) and SiLU; q and k have
    length 1. log a = -exp(A_log) softplus(in_a(x) + dt_bias), b = beta_scale * sigmoid(in_b(x)). The output is
    out(norm(y) * silu(z)) with z = in_z(x). Several value heads share a key head.
    """

    num_key_heads: int
    num_value_heads: int
    key_dim: int  # of a head
    value_dim: int
    kernel_size: int
    norm: NormSpec  # over a head
    tiles_key_heads: bool = False  # GGUF: value head h uses key head h % num_key_heads; else neighbors share
    has_own_qkv: bool = False  # q, k and v come from matrices and convolutions that checkpoints store one by one
    has_channel_decay: bool = False  # a, and so in_a(x), has a number for each of the K rows of S (Kimi Linear)
    gate_rank: int | None = None  # in_a and in_z are products of two matrices with this size between them
    has_sigmoid_gate: bool = False  # out(norm(y) * sigmoid(z))
    min_log_decay: float | None = None  # log a = min_log_decay * sigmoid(exp(A_log) (in_a(x) + dt_bias)) (Ling 3)
    beta_scale: float = 1.0  # 2: a row may turn what the state holds for its key to the opposite (OLMo Hybrid)

    @property
    def conv_size(self) -> int:
        """Channels of q, k and v together."""
        return 2 * self.key_size + self.value_size

    @property
    def key_size(self) -> int:
        return self.num_key_heads * self.key_dim

    @property
    def value_size(self) -> int:
        return self.num_value_heads * self.value_dim

    @property
    def num_decays(self) -> int:
        """Numbers that a has for a row."""
        return self.num_value_heads * (self.key_dim if self.has_channel_decay else 1)


class GatePlace(enum.Enum):
    """Position of a gate silu(z) relative to the norm of an output y."""

    BEFORE_NORM = enum.auto()  # norm(y * silu(z))
    AFTER_NORM = enum.auto()  # norm(y) * silu(z)


@dataclass(frozen=True, slots=True)
class StateSpaceScales:
    """Factors of what `in_proj` returns, by part, and of the input of `out` (Falcon-H1)."""

    z: float
    x: float
    b: float
    c: float
    step: float
    out: float


@dataclass(frozen=True, slots=True)
class StateSpaceSpec:
    """A state space with one decay per head (Mamba-2, Dao and Gu 2024): Granite 4, Nemotron-H, Falcon-H1, MiniMax-01.

    The state of a head is a matrix S [N, P]. A row's input x [P] is added with its key B [N], and read with C [N]:

        S' = a S + B (d x)^T,   y = S'^T C + D x,   d = softplus(in_d + dt_bias),   a = exp(-exp(A_log) d)

    z, x, B, C and in_d are the rows of `in_proj`. x, B and C have passed a short convolution (its last kernel_size - 1
    inputs are state, too) and SiLU. Heads of a group share B and C, and an RMS norm of y is over a group's channels.
    d is limited to min_step .. max_step. With `rates`, decays are fixed: a = exp(-rate), d = 1, and there is no D x.
    Then B are keys, C queries, and x values of linear attention (lightning attention, Qin et al. 2024).
    """

    num_heads: int  # H
    head_dim: int  # P
    num_groups: int
    state_size: int  # N
    kernel_size: int | None  # None: x, B and C pass SiLU alone
    norm: NormSpec | None  # None: out(y * silu(z))
    gate: GatePlace = GatePlace.BEFORE_NORM
    has_conv_bias: bool = True
    has_in_bias: bool = False  # of in_proj
    has_out_bias: bool = False
    min_step: float = 0.0
    max_step: float = math.inf
    scales: StateSpaceScales | None = None
    rates: tuple[float, ...] | None = None  # [H]
    norms_all_channels: bool = False  # together, not by group
    has_sigmoid_gate: bool = False  # in place of silu(z), with AFTER_NORM

    @property
    def num_norms(self) -> int:
        """Runs of channels that are normalized each by itself."""
        return 1 if self.norms_all_channels else self.num_groups

    @property
    def inner_size(self) -> int:
        """Channels of x of all heads."""
        return self.num_heads * self.head_dim

    @property
    def conv_size(self) -> int:
        """Channels of x, B and C together."""
        return self.inner_size + 2 * self.num_groups * self.state_size


@dataclass(frozen=True, slots=True)
class SelectiveScanSpec:
    """A state space with a decay per channel and state (Mamba, Gu and Dao 2023): Mamba, FalconMamba, Jamba.

    The state of a channel is a vector h [N], to which a row adds the channel's x:

        h' = exp(-exp(A_log) d) h + d x B,   y = C . h' + D x,   d = softplus(dt_proj(in_d))

    x and z are the rows of `in_proj`; x has passed a short convolution (its last kernel_size - 1 inputs are state, too)
    and SiLU. in_d [step_rank], B and C [N] are x_proj(x), shared by all channels. The output is out(y * silu(z)).
    """

    num_channels: int
    state_size: int  # N
    step_rank: int
    kernel_size: int
    norm: NormSpec | None = None  # of in_d, B and C
    has_conv_bias: bool = True
    has_bias: bool = False  # of in_proj and out


@dataclass(frozen=True, slots=True)
class LinearUnitSpec:
    """A gated linear recurrent unit (RG-LRU, De et al. 2024): RecurrentGemma.

    The state h has a number per channel, which a row decays by a before it adds its x:

        h' = a h + sqrt(1 - a^2) i x,   i = sigmoid(W_i x),   log a = -8 softplus(rate) sigmoid(W_a x)

    x and z are the rows of `in_proj`; x has passed a short convolution (its last kernel_size - 1 inputs are state,
    too). W_i and W_a, with biases, have a matrix for each head, a run of channels. The first row of a sequence is
    added with the factor 1 in place of the root. The output is out(h' * gelu(z)), with the tanh approximation.
    """

    num_channels: int
    num_heads: int
    kernel_size: int


@dataclass(frozen=True, slots=True)
class GeneralizedDeltaSpec:
    """Linear attention by the generalized delta rule (Peng et al. 2025: RWKV-7).

    The state of a head is a matrix S [K, K] that maps keys to values. A row decays it by a number w per key channel, in
    which it removes the fraction a of what S holds for the direction c, and adds the row's value:

        S' = w S - (a c) (c^T S) + k v^T,   y = q^T S'

    Each of q, k, v, w, a and the gate g is a product of x + mu (x before - x), with numbers mu of its own per channel;
    the last x is state, too. Those of w, a and g have a small size between two matrices. With the parameters k_k, k_a
    and r_k per channel:

        log w = -e^-0.5 sigmoid(in_w),   a = sigmoid(in_a),   c = (k_k in_k) / |k_k in_k|,   k = in_k (1 + k_a (a - 1))

    and v = in_v + (v of the first layer - in_v) sigmoid(in_f) in later layers. The output is
    out((norm(y) + (q . r_k k) v) g), with a norm over each head's channels whose weights are of all heads.
    """

    num_heads: int
    head_dim: int  # K
    decay_rank: int  # size between the two matrices of w
    rate_rank: int
    gate_rank: int
    value_rank: int | None  # of in_f; None in the first layer
    norm: NormSpec

    @property
    def num_channels(self) -> int:
        """Channels of all heads."""
        return self.num_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class TokenShiftSpec:
    """A mixture of a sublayer's input with the row before, x + mu (x before - x): RWKV-7's feed-forward.

    The last x is the state.
    """

    num_channels: int


RecurrenceSpec = (
    ShortConvSpec | GatedDeltaSpec | StateSpaceSpec | SelectiveScanSpec | LinearUnitSpec | GeneralizedDeltaSpec
)


@dataclass(frozen=True, slots=True)
class StateTensor:
    """A tensor of a sequence's state. is_fp32: whether it is fp32, whatever dtype activations have."""

    name: str
    shape: tuple[int, ...]
    is_fp32: bool


@dataclass(frozen=True, slots=True)
class OpaqueStateSpec:
    """A recurrence that other code computes; only its state's tensors are known."""

    tensors: tuple[StateTensor, ...]


StateSpec = RecurrenceSpec | TokenShiftSpec | OpaqueStateSpec  # all that keep a state
