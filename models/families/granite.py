"""Granite, GraniteMoE, GraniteMoEShared and GraniteSWA: Llama with scales of embeddings, sublayers and logits."""

import dataclasses
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import MoESpec, RouterScore, RouterSpec
from models.architecture.layer import LayerSpec
from models.checkpoints.gguf.fields import check_layers_listed, common_fields, window_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.layers import sliding_windows
from models.errors import CheckpointError
from models.families import llama
from models.families.experts import GGUF_EXPERT_NAMES, gguf_expert_fields
from models.families.name_map import To
from models.families.registry import Family


def describe(config: HFConfig) -> DecoderSpec:
    sublayer_scale = config.number("residual_multiplier", 1.0)
    attention_scale = config.number("attention_multiplier", 1.0)

    def adapt(_: int, layer: LayerSpec) -> LayerSpec:
        attention = dataclasses.replace(layer.attention, scale=attention_scale)
        return dataclasses.replace(layer, mixer=attention, sublayer_scale=sublayer_scale)

    return dataclasses.replace(
        llama.describe(config).map_layers(adapt),
        embedding_scale=config.number("embedding_multiplier", 1.0),
        logit_scale=1.0 / config.number("logits_scaling", 1.0),
    )


def describe_swa(config: HFConfig) -> DecoderSpec:
    """Describe GraniteSWA: windows in three of four layers, sinks, and a theta of each layer (0: no positions)."""
    config = config.with_defaults({"tie_word_embeddings": True, "rms_norm_eps": 1e-5})
    spec = describe(config)
    windows = sliding_windows(config, len(spec.layers), is_windowed=lambda index: index % 4 != 0, default=128)
    thetas = _thetas(config, len(spec.layers))

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        attention = dataclasses.replace(layer.attention, sliding_window=windows[index], has_sinks=True)
        rope, theta = layer.rope, thetas[index]
        assert rope is not None
        rope = None if theta == 0 else rope if theta is None else dataclasses.replace(rope, theta=theta)
        return dataclasses.replace(layer, mixer=attention, rope=rope)

    return spec.map_layers(adapt)


def _thetas(config: HFConfig, num_layers: int) -> list[float | None]:
    """Return each layer's theta by `layer_rope_theta`; None: that of the model."""
    thetas = config.raw("layer_rope_theta")
    if thetas is None:
        return [None] * num_layers
    are_numbers = isinstance(thetas, list) and all(type(theta) in (int, float) and theta >= 0 for theta in thetas)
    if not are_numbers or len(thetas) != num_layers:
        raise CheckpointError(
            f"{config.source}: layer_rope_theta is not a list of {num_layers} numbers of at least 0; {config.remedy}"
        )
    return [float(theta) for theta in thetas]


def describe_moe(config: HFConfig) -> DecoderSpec:
    router = RouterSpec(RouterScore.SOFTMAX, config.integer("num_experts_per_tok", 2), renormalizes=True)
    num_experts = config.integer("num_local_experts", 8)
    shared_size = config.integer("shared_intermediate_size", 0, minimum=0)

    def adapt(_: int, layer: LayerSpec) -> LayerSpec:
        shared = layer.dense_mlp.with_size(shared_size) if shared_size else None
        return dataclasses.replace(layer, mlp=MoESpec(num_experts, layer.dense_mlp, router, shared))

    return describe(config).map_layers(adapt)


EXPERTS = {
    "model.layers.{i}.block_sparse_moe.router.layer.weight": To("layers.{i}.mlp.router"),
    "model.layers.{i}.block_sparse_moe.input_linear.weight": To("layers.{i}.mlp.experts.{e}.gate_up"),
    "model.layers.{i}.block_sparse_moe.output_linear.weight": To("layers.{i}.mlp.experts.{e}.down"),
    "model.layers.{i}.shared_mlp.input_linear.*": To("layers.{i}.mlp.shared.gate_up"),
    "model.layers.{i}.shared_mlp.output_linear.*": To("layers.{i}.mlp.shared.down"),
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    fields = common_fields(file)
    return {
        **fields,
        "embedding_multiplier": file.scale("embedding_scale"),
        "residual_multiplier": file.scale("residual_scale"),
        "attention_multiplier": file.scale("attention.scale") or fields["head_dim"] ** -0.5,
        "logits_scaling": file.scale("logit_scale"),
    }


def gguf_moe_fields(file: GGUFMetadata) -> dict[str, Any]:
    experts = gguf_expert_fields(file, size="intermediate_size")
    shared = {"shared_intermediate_size": file.size("expert_shared_feed_forward_length")}
    return {**gguf_fields(file), **experts, **shared}


def gguf_swa_fields(file: GGUFMetadata) -> dict[str, Any]:
    fields = {**gguf_fields(file), **window_fields(file)}
    if (has_rope := file.raw("attention.rope_pattern")) is None:
        return fields
    check_layers_listed(file, "attention.rope_pattern", has_rope)
    theta = fields["rope_parameters"]["rope_theta"]
    return {**fields, "layer_rope_theta": [theta if has else 0 for has in has_rope[: fields["num_hidden_layers"]]]}


SWA = Family(
    describe_swa,
    {**llama.NAMES, "model.layers.{i}.self_attn.sinks": To("layers.{i}.attn", parameter="sinks")},
    {**llama.GGUF_NAMES, "blk.{i}.attn_sinks.weight": To("layers.{i}.attn", parameter="sinks")},
    gguf_swa_fields,
)
FAMILY = Family(describe, llama.NAMES, llama.GGUF_NAMES, gguf_fields)
MOE = Family(describe_moe, {**llama.NAMES, **EXPERTS}, {**llama.GGUF_NAMES, **GGUF_EXPERT_NAMES}, gguf_moe_fields)
