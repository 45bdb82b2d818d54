"""Rotary positions and context lengths in the configurations of all families."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from models.architecture.positions import (
    DynamicScaling,
    FrequencyFactors,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    RopeScaling,
    RopeSpec,
    YarnScaling,
)
from models.config.hf_config import HFConfig, quote_value
from models.errors import CheckpointError, UnsupportedModelError

_SUPPORTED = "default, linear, dynamic, yarn, longrope and llama3"


def rope_spec(
    config: HFConfig,
    head_dim: int,
    *,
    layer_type: str = "full_attention",
    default_theta: float = 10000.0,
    default_share: float = 1.0,
) -> RopeSpec:
    """Read rotary positions from `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` (before).

    layer_type: selects the parameters to read if the configuration states them for each type of layer.
    """
    is_current = config.has("rope_parameters")
    scaling = config.section("rope_parameters" if is_current else "rope_scaling")
    if isinstance(scaling.raw(layer_type), dict):
        scaling = scaling.section(layer_type)
    outer = scaling if is_current else config
    theta = outer.number("rope_theta", config.number("rope_theta", default_theta))
    field = "partial_rotary_factor"
    share = outer.number(field, config.number(field, default_share))
    if _kind(scaling) == "proportional":
        return _proportional(scaling, head_dim, theta, share)
    rotary_dim = int(head_dim * share)
    if share == 1.0 and head_dim % 2:
        raise CheckpointError(
            f"{config.source}: the head size {head_dim} is odd, and rotary positions need pairs; head_dim, or "
            f"hidden_size divided by num_attention_heads, must be even; {config.remedy}"
        )
    if share > 1.0 or rotary_dim < 2 or rotary_dim % 2:
        stated = field if outer.has(field) or config.has(field) else config.spelling(field)
        raise CheckpointError(
            f"{config.source}: {stated} {share} of head size {head_dim} "
            f"rotates {rotary_dim} dimensions; "
            f"it must be an even number of them, 2 to {head_dim}"
        )
    _check_axes(scaling, rotary_dim)
    if _has_alpha(scaling) and rotary_dim > 2:
        return RopeSpec(rotary_dim, theta * scaling.number("alpha") ** (rotary_dim / (rotary_dim - 2)))
    return RopeSpec(rotary_dim, theta, _scaling(config, scaling, rotary_dim))


def ropes_by_type(
    config: HFConfig, head_dim: int, *, window_theta: str, default_theta: float = 10000.0, default_share: float = 1.0
) -> dict[str, RopeSpec]:
    """Read rotary positions of layers with full attention and with a window, which have a theta of their own.

    window_theta: the field with this theta if `rope_parameters` are absent; null: as in the other layers. The scaling
    is then that of full attention alone.
    """
    full = rope_spec(config, head_dim, default_theta=default_theta, default_share=default_share)
    if config.has("rope_parameters"):
        windowed = rope_spec(config, head_dim, layer_type="sliding_attention", default_share=default_share)
    else:
        theta = full.theta if config.is_null(window_theta) else config.number(window_theta, 10000.0)
        windowed = dataclasses.replace(full, theta=theta, scaling=None)
    return {"full_attention": full, "sliding_attention": windowed}


def _proportional(scaling: HFConfig, head_dim: int, theta: float, share: float) -> RopeSpec:
    """Return a rotary embedding of the first pairs, a share of a head's, which keep the frequencies of whole heads."""
    num_pairs = int(share * head_dim // 2)
    if share > 1.0 or num_pairs < 1 or head_dim % 2:
        raise CheckpointError(
            f"{scaling.source}: partial_rotary_factor {share} of head size {head_dim} rotates {num_pairs} pairs; it "
            f"must be 1 to {head_dim // 2} of them, of heads of an even size; {scaling.remedy}"
        )
    factor = scaling.number("factor", 1.0)
    return RopeSpec(
        head_dim,
        theta,
        scaling=None if factor == 1.0 else LinearScaling(factor),
        num_pairs=None if 2 * num_pairs == head_dim else num_pairs,
    )


def _has_alpha(scaling: HFConfig) -> bool:
    """Whether scaling that is called dynamic has a fixed factor of theta instead, for contexts of all lengths."""
    return _kind(scaling) == "dynamic" and bool(scaling.raw("alpha"))


def _check_axes(scaling: HFConfig, rotary_dim: int) -> None:
    """Check the numbers of rotated pairs for time, height and width.

    Of text, all axes have one position: rotating by that position is exact, whichever pairs belong to which axis.
    """
    sections = scaling.raw("mrope_section")
    if sections is None:
        return
    are_counts = isinstance(sections, list) and all(type(count) is int and count >= 0 for count in sections)
    is_interleaved = scaling.boolean("mrope_interleaved", False)  # in turn, as far as the pairs last
    if not are_counts or (sum(sections) != rotary_dim // 2 and not is_interleaved):
        raise CheckpointError(
            f"{scaling.source}: mrope_section is {quote_value(sections)}; it must be a list of counts that divide the "
            f"{rotary_dim // 2} rotated pairs; {scaling.remedy}"
        )


def with_default_rope(config: HFConfig, parameters: Mapping[str, Any]) -> HFConfig:
    """Return `config` with these `rope_parameters` if it states nothing about rotary positions."""
    if any(config.has(name) for name in ("rope_parameters", "rope_scaling", "rope_theta")):
        return config
    return config.with_fields({"rope_parameters": dict(parameters)})


def context_length(config: HFConfig, default: int) -> int:
    """Return the longest context the checkpoint claims: `max_position_embeddings`, extended by yarn or dynamic scaling.

    Linear scaling's factor is not counted: configurations disagree on whether the length includes it.
    """
    stated = config.integer("max_position_embeddings", default)
    scaling = config.section("rope_parameters" if config.has("rope_parameters") else "rope_scaling")
    match _kind(scaling):
        case "yarn":
            return max(stated, int(_original_length(config, scaling) * _yarn_factor(config, scaling)))
        case "dynamic" if not _has_alpha(scaling):
            return int(stated * scaling.number("factor"))
        case _:
            return stated


def _kind(scaling: HFConfig) -> str:
    name = scaling.text("rope_type", scaling.text("type", "default"))
    # text has one position for all sections of mrope and xdrope
    return {"su": "longrope", "mrope": "default", "xdrope": "dynamic"}.get(name, name)


def _scaling(config: HFConfig, scaling: HFConfig, rotary_dim: int) -> RopeScaling | None:
    match _kind(scaling):
        case "default":
            return None
        case "linear":
            return LinearScaling(scaling.number("factor"))
        case "dynamic":
            if rotary_dim == 2:
                raise UnsupportedModelError(f"{config.source}: dynamic scaling needs more than 2 rotated dimensions")
            return DynamicScaling(scaling.number("factor"), config.integer("max_position_embeddings"))
        case "yarn":
            return _yarn(config, scaling)
        case "longrope":
            return _longrope(config, scaling, rotary_dim)
        case "llama3":
            return Llama3Scaling(
                factor=scaling.number("factor"),
                low_freq_factor=scaling.number("low_freq_factor"),
                high_freq_factor=scaling.number("high_freq_factor"),
                original_max_position=scaling.integer("original_max_position_embeddings"),
            )
        case "factors":  # made by the GGUF reader
            return FrequencyFactors(_factors(scaling, "factors", rotary_dim))
        case other:
            raise UnsupportedModelError(
                f"{config.source}: rotary scaling {other!r} is not supported; supported are {_SUPPORTED}"
            )


def _yarn(config: HFConfig, scaling: HFConfig) -> YarnScaling:
    factor = _yarn_factor(config, scaling)
    if scaling.has("attention_factor"):
        attention_factor = scaling.number("attention_factor")
    elif scaling.raw("mscale") and scaling.raw("mscale_all_dim"):  # 0 counts as absent
        mscale, mscale_all_dim = (scaling.number(name, minimum=0.0) for name in ("mscale", "mscale_all_dim"))
        attention_factor = yarn_mscale(factor, mscale) / yarn_mscale(factor, mscale_all_dim)
    else:
        attention_factor = yarn_mscale(factor)
    return YarnScaling(
        factor=factor,
        original_max_position=_original_length(config, scaling),
        attention_factor=attention_factor,
        beta_fast=scaling.number("beta_fast", 32.0),
        beta_slow=scaling.number("beta_slow", 1.0),
        rounds_bounds=scaling.boolean("truncate", True),
    )


def yarn_mscale(factor: float, weight: float = 1.0) -> float:
    """Return YaRN's scale of attention for a context `factor` times as long (Peng et al. 2023, section 3.4)."""
    return 1.0 if factor <= 1.0 else 0.1 * weight * math.log(factor) + 1.0


def _yarn_factor(config: HFConfig, scaling: HFConfig) -> float:
    if scaling.has("factor"):
        return scaling.number("factor")
    return config.integer("max_position_embeddings") / _original_length(config, scaling)


def _original_length(config: HFConfig, scaling: HFConfig) -> int:
    """Return the context length of training, before it was extended."""
    name = "original_max_position_embeddings"
    if config.has(name):  # Phi-3 states it outside of the scaling
        return config.integer(name)
    return scaling.integer(name) if scaling.has(name) else config.integer("max_position_embeddings")


def _longrope(config: HFConfig, scaling: HFConfig, rotary_dim: int) -> LongRopeScaling:
    original = _original_length(config, scaling)
    factor = scaling.number("factor", config.integer("max_position_embeddings") / original)
    computed = 1.0 if factor <= 1.0 else math.sqrt(1 + math.log(factor) / math.log(original))
    return LongRopeScaling(
        short_factors=_factors(scaling, "short_factor", rotary_dim),
        long_factors=_factors(scaling, "long_factor", rotary_dim),
        original_max_position=original,
        attention_factor=scaling.number("attention_factor", computed),
    )


def _factors(scaling: HFConfig, name: str, rotary_dim: int) -> tuple[float, ...]:
    """Return one factor for each rotated pair."""
    factors = scaling.numbers(name)
    if len(factors) != rotary_dim // 2:
        raise CheckpointError(
            f"{scaling.source}: {name} holds {len(factors)} factors; there must be {rotary_dim // 2}; "
            "fetch the checkpoint again"
        )
    return factors
