"""Hunyuan A13B: Hunyuan with experts in every layer, beside a shared expert of the same size."""

import dataclasses
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import MoESpec, RouterScore, RouterSpec
from models.architecture.layer import LayerSpec
from models.checkpoints.gguf.fields import common_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.layers import integers_by_layer
from models.errors import CheckpointError
from models.families import hunyuan, qwen3
from models.families.experts import GGUF_EXPERT_NAMES, expert_names, gguf_expert_fields, shared_names
from models.families.name_map import To
from models.families.registry import Family


def describe(config: HFConfig) -> DecoderSpec:
    spec = hunyuan.describe(config)
    chosen = integers_by_layer(config, "moe_topk", len(spec.layers), 1)
    num_experts = config.integer("num_experts", 1)

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        expert = dataclasses.replace(layer.dense_mlp, has_up_bias=False, has_down_bias=False)
        router = RouterSpec(RouterScore.SOFTMAX, chosen[index], renormalizes=True)
        return dataclasses.replace(layer, mlp=MoESpec(num_experts, expert, router, expert))

    return spec.map_layers(adapt)


NAMES = {
    **hunyuan.NAMES,
    "model.layers.{i}.mlp.gate.wg.weight": To("layers.{i}.mlp.router"),
    **expert_names("mlp"),
    **shared_names("mlp", name="shared_mlp"),
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    fields = {**common_fields(file), **gguf_expert_fields(file)}
    size = fields["intermediate_size"]
    sizes = [fields["moe_intermediate_size"], file.size("expert_shared_feed_forward_length") or size]
    if sizes != [size, size] or (file.size("expert_shared_count") or 1) != 1:
        raise CheckpointError(
            f"{file.source}: experts of {sizes[0]} and shared ones of {sizes[1]} are not one each of {size}, as the "
            "architecture has them; fetch or convert the file again"
        )
    return {**fields, "moe_topk": fields["num_experts_per_tok"]}


FAMILY = Family(describe, NAMES, {**qwen3.GGUF_NAMES, **GGUF_EXPERT_NAMES}, gguf_fields)
