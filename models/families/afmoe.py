"""AFMoE (Trinity): output gates, norms on both sides, no positions in layers without a window, sigmoid experts."""

import dataclasses
from typing import Any

from models.architecture.attention import QKNormSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import MoESpec, RouterScore, RouterSpec
from models.architecture.layer import LayerSpec, NormPlacement
from models.checkpoints.gguf.fields import common_fields, window_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.layers import sliding_windows
from models.families import llama, olmo2, routed_experts
from models.families.experts import gguf_expert_fields, require_sigmoid
from models.families.name_map import To
from models.families.registry import Family


def describe(config: HFConfig) -> DecoderSpec:
    spec = llama.describe(config, llama.Defaults(head_dim=128, eps=1e-5, activation="silu"))
    step = config.integer("global_attn_every_n_layers", 4)
    windows = sliding_windows(config, len(spec.layers), is_windowed=lambda index: (index + 1) % step != 0, default=1024)
    per_token, scale = config.integer("num_experts_per_tok", 6), config.number("route_scale", 1.0)
    router = RouterSpec(RouterScore.SIGMOID, per_token, renormalizes=True, has_correction=True, scale=scale)
    num_experts, num_dense = config.integer("num_experts", 64), config.integer("num_dense_layers", 1, minimum=0)
    size, num_shared = config.integer("moe_intermediate_size", 1408), config.integer("num_shared_experts", 2)

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        expert, shared = (layer.dense_mlp.with_size(n * size) for n in (1, num_shared))
        return dataclasses.replace(
            layer.with_window(windows[index]),
            rope=None if windows[index] is None else layer.rope,
            placement=NormPlacement.SANDWICH,
            qk_norm=QKNormSpec(layer.norm),
            has_output_gate=True,
            mlp=layer.mlp if index < num_dense else MoESpec(num_experts, expert, router, shared),
        )

    scale = spec.hidden_size**0.5 if config.boolean("mup_enabled", False) else 1.0
    return dataclasses.replace(spec.map_layers(adapt), embedding_scale=scale)


NAMES = {
    **olmo2.NAMES,
    "model.layers.{i}.pre_mlp_layernorm.*": To("layers.{i}.mlp_norm"),
    "model.layers.{i}.post_mlp_layernorm.*": To("layers.{i}.mlp_post_norm"),
    "model.layers.{i}.self_attn.gate_proj.*": To("layers.{i}.attn.qkv", "gate"),
    **routed_experts.names_in("mlp", router="router.gate", correction="expert_bias"),
}

GGUF_NAMES = {
    **olmo2.GGUF_NAMES,
    **routed_experts.GGUF_NAMES,
    "blk.{i}.attn_gate.*": To("layers.{i}.attn.qkv", "gate"),
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    """Return the fields of config.json. The scale of embeddings is in llama.cpp's code."""
    require_sigmoid(file)
    return {
        **common_fields(file),
        **window_fields(file),
        **gguf_expert_fields(file),
        "num_dense_layers": file.integer("leading_dense_block_count", 0, minimum=0),
        "num_shared_experts": file.integer("expert_shared_count"),
        "route_scale": file.scale("expert_weights_scale"),
        "mup_enabled": True,
    }


FAMILY = Family(describe, NAMES, GGUF_NAMES, gguf_fields)
