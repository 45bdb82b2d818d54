"""Mamba, FalconMamba and Mamba-2: a recurrence in every layer, no attention and no MLP."""

from typing import Any

from models.architecture.decoder import DecoderSpec
from models.architecture.layer import LayerSpec
from models.architecture.norm import NormKind, NormSpec
from models.architecture.recurrence import RecurrenceSpec, SelectiveScanSpec, StateSpaceSpec
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.errors import UnsupportedModelError
from models.families.name_map import To
from models.families.recurrent import GGUF_RECURRENT_NAMES, recurrent_decoder
from models.families.registry import Family
from models.families.state_spaces import (
    checked_space,
    gguf_scan_names,
    gguf_space_names,
    kernel_size,
    scan_names,
    space_names,
    step_rank,
    with_step_limit,
)


def describe_mamba(config: HFConfig) -> DecoderSpec:
    return _describe(config, _scan(config, None), has_tied_head=True)


def describe_falcon_mamba(config: HFConfig) -> DecoderSpec:
    norm = NormSpec(NormKind.RMS, config.number("mixer_rms_eps", 1e-6), has_weight=False)
    return _describe(config, _scan(config, norm), has_tied_head=True)


def describe_mamba2(config: HFConfig) -> DecoderSpec:
    has_bias, hidden_size = config.boolean("use_bias", False), config.integer("hidden_size")
    space = StateSpaceSpec(
        num_heads=config.integer("num_heads", 128),
        head_dim=config.integer("head_dim", 64),
        num_groups=config.integer("n_groups", 8),
        state_size=config.integer("state_size", 128),
        kernel_size=kernel_size(config, "conv_kernel"),
        norm=_norm(config),
        has_conv_bias=config.boolean("use_conv_bias", True),
        has_in_bias=has_bias,
        has_out_bias=has_bias,
    )
    checked_space(config, space, config.integer("expand", 2) * hidden_size)
    return _describe(config, with_step_limit(config, space), has_tied_head=False)


def _describe(config: HFConfig, recurrence: RecurrenceSpec, *, has_tied_head: bool) -> DecoderSpec:
    if (activation := config.text("hidden_act", "silu")) != "silu":
        raise UnsupportedModelError(f"{config.source}: hidden_act is {activation!r}; supported is 'silu'")
    layer = LayerSpec(recurrence, None, _norm(config))
    layers = (layer,) * config.num_layers("num_hidden_layers")
    return recurrent_decoder(config, layers, has_tied_head=has_tied_head)


def _scan(config: HFConfig, norm: NormSpec | None) -> SelectiveScanSpec:
    hidden_size = config.integer("hidden_size")
    return SelectiveScanSpec(
        num_channels=config.integer("intermediate_size", config.integer("expand", 2) * hidden_size),
        state_size=config.integer("state_size", 16),
        step_rank=step_rank(config, "time_step_rank"),
        kernel_size=kernel_size(config, "conv_kernel"),
        norm=norm,
        has_conv_bias=config.boolean("use_conv_bias", True),
        has_bias=config.boolean("use_bias", False),
    )


def _norm(config: HFConfig) -> NormSpec:
    return NormSpec(NormKind.RMS, config.number("layer_norm_epsilon", 1e-5))


def _names(layers: dict[str, To | tuple[To, ...] | None]) -> dict[str, To | tuple[To, ...] | None]:
    return {
        "backbone.embeddings.*": To("embed"),
        "backbone.embedding.*": To("embed"),  # as the first checkpoints have it
        "backbone.norm_f.*": To("norm"),
        "backbone.layers.{i}.norm.*": To("layers.{i}.attn_norm"),
        **{name.replace("model.", "backbone.", 1): to for name, to in layers.items()},
        "lm_head.*": To("head"),
    }


_GGUF_SCAN_NAMES = {**GGUF_RECURRENT_NAMES, **gguf_scan_names()}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    """Return the fields that all three families read."""
    hidden_size, inner_size = file.integer("embedding_length"), file.integer("ssm.inner_size")
    return {
        "hidden_size": hidden_size,
        "num_hidden_layers": file.num_layers("block_count"),
        "layer_norm_epsilon": file.number("attention.layer_norm_rms_epsilon"),
        "state_size": file.integer("ssm.state_size"),
        "conv_kernel": file.integer("ssm.conv_kernel"),
        "use_conv_bias": any(name.endswith("ssm_conv1d.bias") for name in file.tensors),
        "use_bias": any(name.endswith("ssm_in.bias") for name in file.tensors),
        "intermediate_size": inner_size,
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }


def gguf_mamba_fields(file: GGUFMetadata) -> dict[str, Any]:
    if file.boolean("ssm.dt_b_c_rms", False):
        raise UnsupportedModelError(f"{file.source}: ssm.dt_b_c_rms is true, which is FalconMamba's")
    return {**gguf_fields(file), "time_step_rank": file.integer("ssm.time_step_rank")}


def gguf_falcon_mamba_fields(file: GGUFMetadata) -> dict[str, Any]:
    # llama.cpp norms with the layers' epsilon.
    return {
        **gguf_fields(file),
        "time_step_rank": file.integer("ssm.time_step_rank"),
        "mixer_rms_eps": file.number("attention.layer_norm_rms_epsilon"),
        "ssm_norms": file.boolean("ssm.dt_b_c_rms"),
    }


def gguf_mamba2_fields(file: GGUFMetadata) -> dict[str, Any]:
    fields, num_heads = gguf_fields(file), file.integer("ssm.time_step_rank")
    return {
        **fields,
        "num_heads": num_heads,
        "head_dim": fields["intermediate_size"] // num_heads,
        "n_groups": file.integer("ssm.group_count"),
        "expand": max(1, fields["intermediate_size"] // fields["hidden_size"]),
    }


MAMBA = Family(describe_mamba, _names(scan_names("mixer")), _GGUF_SCAN_NAMES, gguf_mamba_fields)
FALCON_MAMBA = Family(describe_falcon_mamba, _names(scan_names("mixer")), _GGUF_SCAN_NAMES, gguf_falcon_mamba_fields)
MAMBA2 = Family(
    describe_mamba2, _names(space_names("mixer")), {**GGUF_RECURRENT_NAMES, **gguf_space_names()}, gguf_mamba2_fields
)
