"""Falcon-H1: attention and a state space side by side in every layer, with factors of many of their parts.

GGUF files have the factors in their weights.
"""

import dataclasses
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import GateScales
from models.architecture.layer import LayerSpec
from models.architecture.recurrence import GatePlace, StateSpaceScales
from models.checkpoints.gguf.fields import common_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.errors import CheckpointError, UnsupportedModelError
from models.families import jamba, llama, qwen3
from models.families.name_map import To
from models.families.registry import Family
from models.families.state_spaces import gguf_space_fields, gguf_space_names, mamba_space, space_names


def describe(config: HFConfig) -> DecoderSpec:
    spec = llama.describe(config, llama.Defaults(eps=1e-5))
    norm = spec.layers[0].norm if config.boolean("mamba_rms_norm", False) else None
    gates_last = config.boolean("mamba_norm_before_gate", True)
    space = dataclasses.replace(
        mamba_space(config.with_defaults({"mamba_d_ssm": 1024}), norm),
        gate=GatePlace.AFTER_NORM if gates_last else GatePlace.BEFORE_NORM,
        has_out_bias=config.boolean("projectors_bias", False),
        scales=_scales(config),
    )
    attention_in = config.number("attention_in_multiplier", 1.0)
    score_scale = attention_in**2 * config.number("key_multiplier", 1.0)
    mixer_scale = attention_in * config.number("attention_out_multiplier", 1.0)
    gate_scales = _gate_scales(config)

    def adapt(_: int, layer: LayerSpec) -> LayerSpec:
        attention, mlp = layer.attention, layer.dense_mlp
        refused = {
            "attention_bias with attention_in_multiplier": layer.has_qkv_bias and attention_in != 1.0,
            "mamba_proj_bias with ssm_in_multiplier": space.has_in_bias
            and config.number("ssm_in_multiplier", 1.0) != 1,
            "projectors_bias with ssm_out_multiplier": space.has_out_bias and space.scales and space.scales.out != 1.0,
            "mlp_bias with mlp_multipliers": mlp.has_down_bias and gate_scales is not None,
        }
        if found := next((name for name, is_refused in refused.items() if is_refused), None):
            raise UnsupportedModelError(f"{config.source}: {found} other than 1 is not supported")
        return dataclasses.replace(
            layer,
            mixer=dataclasses.replace(attention, scale=attention.scale * score_scale),
            beside=space,
            mixer_scale=mixer_scale,
            mlp=dataclasses.replace(mlp, scales=gate_scales),
        )

    return dataclasses.replace(
        spec.map_layers(adapt),
        embedding_scale=config.number("embedding_multiplier", 1.0),
        logit_scale=config.number("lm_head_multiplier", 1.0),
    )


def _scales(config: HFConfig) -> StateSpaceScales | None:
    of_input, of_output = config.number("ssm_in_multiplier", 1.0), config.number("ssm_out_multiplier", 1.0)
    of_parts = _factors(config, "ssm_multipliers", 5)
    z, x, b, c, step = (of_input * factor for factor in of_parts)
    scales = StateSpaceScales(z, x, b, c, step, of_output)
    return None if set(dataclasses.astuple(scales)) == {1.0} else scales


def _gate_scales(config: HFConfig) -> GateScales | None:
    factors = _factors(config, "mlp_multipliers", 2)
    return None if set(factors) == {1.0} else GateScales(*factors)


def _factors(config: HFConfig, name: str, count: int) -> tuple[float, ...]:
    factors = config.numbers(name) if config.has(name) else (1.0,) * count
    if len(factors) != count:
        raise CheckpointError(
            f"{config.source}: {name} has {len(factors)} factors; it must have {count}; "
            "fetch the checkpoint's own configuration again"
        )
    return factors


_NAMES = {**jamba.DENSE_NAMES, **space_names("mamba", "layers.{i}.beside")}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    return {
        **common_fields(file),
        **gguf_space_fields(file),
        "mamba_rms_norm": any(name.endswith(".ssm_norm.weight") for name in file.tensors),
        "mamba_norm_before_gate": False,  # llama.cpp always gates first
        "projectors_bias": any(name.endswith(".ssm_out.bias") for name in file.tensors),
    }


_GGUF_NAMES = {
    **qwen3.GGUF_NAMES,
    **gguf_space_names("layers.{i}.beside"),
    "blk.{i}.ffn_norm": To("layers.{i}.mlp_norm"),  # without an end, as llama.cpp's converter names it
}

FAMILY = Family(describe, _NAMES, _GGUF_NAMES, gguf_fields)
