"""DecoderSpec: what a decoder-only transformer computes, as plain frozen data that a family's describe() returns."""

import enum
from dataclasses import dataclass

from models.attention.base import AttentionSpec


class NormKind(enum.Enum):
    RMS = enum.auto()  # weight only
    LAYER = enum.auto()  # mean subtracted; weight and bias


class Activation(enum.Enum):
    SILU = enum.auto()
    GELU_TANH = enum.auto()


@dataclass(frozen=True, slots=True)
class NormSpec:
    kind: NormKind
    eps: float


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """All rotary frequencies divided by `factor` (position interpolation)."""

    factor: float


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Low frequencies divided by `factor`, high ones kept, a linear blend between (Llama 3.1 and later)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int


@dataclass(frozen=True, slots=True)
class FrequencyFactors:
    """Each rotary frequency divided by a factor of its own: how GGUF files state Llama 3's scaling."""

    factors: tuple[float, ...]  # [rotary_dim / 2]


RopeScaling = LinearScaling | Llama3Scaling | FrequencyFactors


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary positions on the first `rotary_dim` of each head; dimension d is paired with d + rotary_dim / 2."""

    rotary_dim: int
    theta: float
    scaling: RopeScaling | None = None


@dataclass(frozen=True, slots=True)
class MLPSpec:
    """down(act(gate x) * up x) if gated, else down(act(up x))."""

    intermediate_size: int
    activation: Activation
    is_gated: bool
    has_bias: bool


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One pre-norm layer: x += attention(norm x); x += mlp(norm x)."""

    attention: AttentionSpec
    rope: RopeSpec | None
    has_qkv_bias: bool
    has_out_bias: bool
    mlp: MLPSpec
    norm: NormSpec


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    vocab_size: int
    hidden_size: int
    max_position: int  # longest context the checkpoint claims
    layers: tuple[LayerSpec, ...]
    final_norm: NormSpec
    has_learned_positions: bool  # one embedding a position, max_position of them
    has_tied_head: bool  # the output layer is the token embedding
