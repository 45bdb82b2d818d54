"""Phi-3.5-MoE: Mixtral with LayerNorms, biases, longrope, and experts chosen by SparseMixer."""

import dataclasses
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import MoESpec, RouterScore, RouterSpec
from models.architecture.layer import LayerSpec
from models.architecture.norm import NormKind, NormSpec
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.errors import UnsupportedModelError
from models.families import llama, mistral, mixtral, qwen2
from models.families.experts import GGUF_EXPERT_NAMES, gguf_expert_fields
from models.families.registry import Family


def describe(config: HFConfig) -> DecoderSpec:
    config = _with_attention_factor(config)
    spec = mistral.with_windows(
        config, llama.describe(config, llama.Defaults(rope_theta=1e6, eps=1e-5, activation="silu"))
    )
    norm = NormSpec(NormKind.LAYER, config.number("rms_norm_eps", 1e-5), has_bias=True)
    router = RouterSpec(
        RouterScore.SPARSEMIXER,
        experts_per_token=config.integer("num_experts_per_tok", 2),
        renormalizes=False,
        jitter=config.number("router_jitter_noise", 0.01, minimum=0.0),
    )
    num_experts = config.integer("num_local_experts", 16)

    def adapt(_: int, layer: LayerSpec) -> LayerSpec:
        return dataclasses.replace(layer, norm=norm, mlp=MoESpec(num_experts, layer.dense_mlp, router))

    has_head_bias = config.boolean("lm_head_bias", False)
    return dataclasses.replace(spec.map_layers(adapt), final_norm=norm, has_head_bias=has_head_bias)


def _with_attention_factor(config: HFConfig) -> HFConfig:
    """Return `config` with longrope's `attention_factor`, which this family states for each set of factors."""
    name = config.first("rope_parameters", "rope_scaling")
    scaling = config.section(name)
    if not scaling.has("long_mscale"):
        return config
    short, long = scaling.number("short_mscale"), scaling.number("long_mscale")
    if short != long:
        raise UnsupportedModelError(f"{scaling.source}: short_mscale {short} and long_mscale {long} must be the same")
    scaled = {**scaling.fields, "attention_factor": long}
    return config.with_fields({name: scaled})


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    fields = {**mistral.gguf_fields(file), **gguf_expert_fields(file, size="intermediate_size")}
    return {**fields, "lm_head_bias": "output.bias" in file.tensors}


FAMILY = Family(describe, mixtral.NAMES, {**qwen2.GGUF_NAMES, **GGUF_EXPERT_NAMES}, gguf_fields)
