"""The gated delta rule in place of attention: spec, and names with matrices of its own for queries, keys and values."""

import dataclasses
from collections.abc import Sequence

from models.architecture.decoder import DecoderSpec
from models.architecture.layer import LayerSpec
from models.architecture.norm import NormSpec
from models.architecture.recurrence import GatedDeltaSpec
from models.config.hf_config import HFConfig
from models.errors import CheckpointError
from models.families.name_map import To
from models.families.transforms import conv_weight, flat, flat_log_of_rate

KINDS = ("linear_attention", "full_attention")
_ATTN = "layers.{i}.attn"
_OWN = ("q", "k", "v")


def head_delta(
    config: HFConfig, norm: NormSpec, *, num_key_heads: int, num_value_heads: int, key_dim: int, value_dim: int
) -> GatedDeltaSpec:
    """Return the delta rule with a decay per head, by the fields "linear_num_key_heads" and others.

    The sizes are for fields that are absent. Raises CheckpointError if the numbers of heads contradict each other.
    """
    num_key_heads = config.integer("linear_num_key_heads", num_key_heads)
    num_value_heads = config.integer("linear_num_value_heads", num_value_heads)
    if num_value_heads % num_key_heads:
        raise CheckpointError(
            f"{config.source}: linear_num_key_heads {num_key_heads} does not divide linear_num_value_heads "
            f"{num_value_heads}; {config.remedy}"
        )
    return GatedDeltaSpec(
        num_key_heads=num_key_heads,
        num_value_heads=num_value_heads,
        key_dim=config.integer("linear_key_head_dim", key_dim),
        value_dim=config.integer("linear_value_head_dim", value_dim),
        kernel_size=config.integer("linear_conv_kernel_dim", 4, minimum=2, maximum=8),
        norm=norm,
    )


def channel_delta(spec: DecoderSpec, num_heads: int, head_dim: int, kernel_size: int) -> GatedDeltaSpec:
    """Return the delta rule with a decay per key channel."""
    return GatedDeltaSpec(
        num_key_heads=num_heads,
        num_value_heads=num_heads,
        key_dim=head_dim,
        value_dim=head_dim,
        kernel_size=kernel_size,
        norm=spec.layers[0].norm,
        has_own_qkv=True,
        has_channel_decay=True,
        has_sigmoid_gate=True,
    )


def with_delta(spec: DecoderSpec, delta: GatedDeltaSpec, kinds: Sequence[str]) -> DecoderSpec:
    """Return `spec` with the delta rule in place of attention in layers of the kind "linear_attention"."""

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        if kinds[index] == KINDS[0]:
            return dataclasses.replace(layer, mixer=delta, latent=None, rope=None, has_output_gate=False)
        return layer

    return spec.map_layers(adapt)


def delta_names(block: str, *, z: str, a: str) -> dict[str, To | tuple[To, ...] | None]:
    """Return rules for "model.layers.{i}.<block>" but its output. z, a: matrices of gate and decay."""
    names = f"model.layers.{{i}}.{block}"
    return {
        **{f"{names}.{part}_proj.*": To(f"{_ATTN}.in_proj", part) for part in (*_OWN, "b")},
        f"{names}.{z}.*": To(f"{_ATTN}.in_proj", "z"),
        f"{names}.{a}.*": To(f"{_ATTN}.in_proj", "a"),
        **{f"{names}.{part}_conv1d.weight": To(f"{_ATTN}.conv", part, conv_weight) for part in _OWN},
        f"{names}.A_log": To(_ATTN, None, flat, "A_log"),
        f"{names}.dt_bias": To(_ATTN, parameter="dt_bias"),
        f"{names}.o_norm.*": To(f"{_ATTN}.norm"),
    }


GGUF_DELTA_NAMES: dict[str, To | tuple[To, ...] | None] = {
    **{f"blk.{{i}}.attn_{part}.*": To(f"{_ATTN}.in_proj", part) for part in _OWN},
    "blk.{i}.ssm_beta.*": To(f"{_ATTN}.in_proj", "b"),
    "blk.{i}.ssm_g_a.*": To(f"{_ATTN}.in_proj", "z"),
    "blk.{i}.ssm_g_b.*": To(f"{_ATTN}.z_up"),
    "blk.{i}.ssm_f_a.*": To(f"{_ATTN}.in_proj", "a"),
    "blk.{i}.ssm_f_b.*": To(f"{_ATTN}.a_up"),
    **{f"blk.{{i}}.ssm_conv1d_{part}.weight": To(f"{_ATTN}.conv", part, conv_weight) for part in _OWN},
    "blk.{i}.ssm_a": To(_ATTN, None, flat_log_of_rate, "A_log"),
    "blk.{i}.ssm_dt.bias": To(_ATTN, parameter="dt_bias"),
    "blk.{i}.ssm_norm.*": To(f"{_ATTN}.norm"),
}
