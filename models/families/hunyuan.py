"""Hunyuan, dense (FAMILY) and with experts (MOE): Llama with norms of query and key heads after rotary embedding."""

import dataclasses
from typing import Any

from models.architecture.attention import QKNormSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import MoESpec, RouterScore, RouterSpec
from models.architecture.layer import LayerSpec
from models.checkpoints.gguf.fields import common_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.layers import by_layer
from models.errors import CheckpointError
from models.families import llama, qwen3
from models.families.experts import GGUF_EXPERT_NAMES, expert_names, gguf_expert_fields, shared_names
from models.families.name_map import To
from models.families.registry import Family


def describe(config: HFConfig) -> DecoderSpec:
    spec = llama.describe(config, llama.Defaults(eps=1e-5, activation="silu"))
    return spec.map_layers(
        lambda _, layer: dataclasses.replace(layer, qk_norm=QKNormSpec(layer.norm, is_after_rope=True))
    )


def describe_moe(config: HFConfig) -> DecoderSpec:
    """Describe Hunyuan A13B: experts in every layer, beside a shared expert of the same size."""
    spec = describe(config)
    chosen = by_layer(config, "moe_topk", len(spec.layers)) or [1] * len(spec.layers)

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        expert = dataclasses.replace(layer.dense_mlp, has_up_bias=False, has_down_bias=False)
        per_token = config.with_fields({"moe_topk": chosen[index]}).integer("moe_topk")
        router = RouterSpec(RouterScore.SOFTMAX, per_token, renormalizes=True)
        return dataclasses.replace(layer, mlp=MoESpec(config.integer("num_experts", 1), expert, router, expert))

    return spec.map_layers(adapt)


NAMES = {
    **llama.NAMES,
    "model.layers.{i}.self_attn.query_layernorm.*": To("layers.{i}.attn.q_norm"),
    "model.layers.{i}.self_attn.key_layernorm.*": To("layers.{i}.attn.k_norm"),
}

MOE_NAMES = {
    **NAMES,
    "model.layers.{i}.mlp.gate.wg.weight": To("layers.{i}.mlp.router"),
    **expert_names("mlp"),
    **shared_names("mlp", name="shared_mlp"),
}


def gguf_moe(file: GGUFMetadata) -> dict[str, Any]:
    fields = {**common_fields(file), **gguf_expert_fields(file)}
    size = fields["intermediate_size"]
    sizes = [fields["moe_intermediate_size"], file.size("expert_shared_feed_forward_length") or size]
    if sizes != [size, size] or (file.size("expert_shared_count") or 1) != 1:
        raise CheckpointError(
            f"{file.source}: experts of {sizes[0]} and shared ones of {sizes[1]} are not one each of {size}, as the "
            "architecture has them; fetch or convert the file again"
        )
    return {**fields, "moe_topk": fields["num_experts_per_tok"]}


FAMILY = Family(describe, NAMES, qwen3.GGUF_NAMES)
MOE = Family(describe_moe, MOE_NAMES, {**qwen3.GGUF_NAMES, **GGUF_EXPERT_NAMES}, gguf_moe)
