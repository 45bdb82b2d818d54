"""ERNIE 4.5 with experts: chosen by a softmax with corrections, without biases, beside a shared expert."""

import dataclasses
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import MoESpec, RouterScore, RouterSpec
from models.architecture.layer import LayerSpec
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.families import cohere, ernie4_5, llama, routed_experts
from models.families.experts import gguf_expert_fields
from models.families.name_map import IGNORE
from models.families.registry import Family


def describe(config: HFConfig) -> DecoderSpec:
    spec = ernie4_5.describe(config, default_head_dim=None)
    per_token, sum_floor = config.integer("moe_k", 6), config.number("moe_norm_min", 1e-12)
    router = RouterSpec(RouterScore.SOFTMAX, per_token, renormalizes=True, sum_floor=sum_floor, has_correction=True)
    num_experts, size = config.integer("moe_num_experts", 64), config.integer("moe_intermediate_size", 1536)
    num_shared = config.integer("moe_num_shared_experts", 2, minimum=0)
    first = config.integer("moe_layer_start_index", 1, minimum=0)
    last = config.integer("moe_layer_end_index", -1, minimum=-1)  # -1: the model's last
    interval = config.integer("moe_layer_interval", 1)

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        if (index + 1) % interval or index < first or index > last >= 0:
            return layer
        expert = dataclasses.replace(layer.dense_mlp.with_size(size), has_up_bias=False, has_down_bias=False)
        shared = layer.dense_mlp.with_size(num_shared * size) if num_shared else None
        return dataclasses.replace(layer, mlp=MoESpec(num_experts, expert, router, shared))

    return dataclasses.replace(spec.map_layers(adapt), has_head_bias=config.boolean("use_bias", False))


NAMES = {
    # multi-token prediction
    **{f"model.mtp_{part}.**": IGNORE for part in ("block", "emb_norm", "hidden_norm", "linear_proj")},
    **cohere.NAMES,
    **routed_experts.names_in("mlp", correction="moe_statics.e_score_correction_bias"),
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    experts = gguf_expert_fields(file)
    return {
        **ernie4_5.gguf_fields(file),
        **experts,
        "moe_num_experts": experts["num_experts"],
        "moe_k": experts["num_experts_per_tok"],
        "moe_num_shared_experts": file.size("expert_shared_count") or 0,
        "moe_layer_start_index": file.integer("leading_dense_block_count", 0, minimum=0),
        "moe_layer_interval": file.integer("interleave_moe_layer_step", 1),
    }


FAMILY = Family(describe, NAMES, {**llama.GGUF_NAMES, **routed_experts.GGUF_NAMES}, gguf_fields)
