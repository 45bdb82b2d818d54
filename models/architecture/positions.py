"""Positions in attention: rotary embedding and its scalings, and biases by distance."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """All rotary frequencies divided by `factor` (position interpolation: Chen et al. 2023)."""

    factor: float


@dataclass(frozen=True, slots=True)
class DynamicScaling:
    """theta raised as far as the longest served context needs ("dynamic NTK").

    Unlike in transformers, theta stays the same while a sequence grows: keys in the cache are rotated once, and shared.
    """

    factor: float
    original_max_position: int


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN: position interpolation of low rotary frequencies only, with attention scaled (Peng et al. 2023)."""

    factor: float
    original_max_position: int
    attention_factor: float  # of cos and sin
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    rounds_bounds: bool = True  # the ramp between the two betas ends at whole dimensions


@dataclass(frozen=True, slots=True)
class LongRopeScaling:
    """Rotary frequencies divided by factors from one of two sets (Ding et al. 2024).

    The long set is used for all contexts if any beyond `original_max_position` is served, as in vLLM: keys in the cache
    are rotated once, so a sequence cannot change sets when it grows.
    """

    short_factors: tuple[float, ...]  # [rotary_dim / 2]
    long_factors: tuple[float, ...]
    original_max_position: int
    attention_factor: float  # of cos and sin, with either set


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Low frequencies divided by `factor`, high ones unchanged, a linear blend between (Llama 3.1 and later)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int


@dataclass(frozen=True, slots=True)
class FrequencyFactors:
    """Rotary frequencies divided by one factor each: the form in which GGUF files state Llama 3's scaling."""

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
    num_pairs: int | None = None  # only the first pairs rotate, at the frequencies that they have among all: Gemma 4


@dataclass(frozen=True, slots=True)
class RelativeBiasSpec:
    """A learned bias per head and distance bucket, added to the attention scores of all layers (Raffel et al. 2020)."""

    num_buckets: int  # half of them for keys before the query
    max_distance: int  # all distances from here on share the last bucket
