"""Hy3: norms of query and key heads, DeepSeek V3's experts without groups."""

import dataclasses
from typing import Any

from models.architecture.attention import QKNormSpec
from models.architecture.decoder import DecoderSpec
from models.checkpoints.gguf.fields import common_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.families import llama, qwen3, routed_experts
from models.families.experts import gguf_expert_fields, gguf_mlp_types, require_sigmoid, shared_names
from models.families.name_map import IGNORE, To
from models.families.registry import Family


def describe(config: HFConfig) -> DecoderSpec:
    spec = llama.describe(config, llama.Defaults(head_dim=128, rope_theta=11158840.0, eps=1e-5, activation="silu"))
    spec = spec.map_layers(lambda _, layer: dataclasses.replace(layer, qk_norm=QKNormSpec(layer.norm)))
    as_deepseek = {
        **routed_experts.UNGROUPED,
        "n_routed_experts": config.integer("num_experts", 192),
        "n_shared_experts": config.integer("num_shared_experts", 1, minimum=0),
        "moe_intermediate_size": config.integer("moe_intermediate_size", 1536),
        "routed_scaling_factor": config.number("router_scaling_factor", 2.826),
    }
    return routed_experts.with_experts(config.with_fields(as_deepseek), spec, routed_experts.UNGROUPED_DEFAULTS)


NAMES = {
    "model.layers.{x}.**": IGNORE,  # multi-token prediction
    **qwen3.NAMES,
    "model.layers.{i}.mlp.router.gate.weight": To("layers.{i}.mlp.router"),  # released checkpoints
    "model.layers.{i}.mlp.expert_bias": To("layers.{i}.mlp.router", parameter="correction"),
    **shared_names("mlp", name="shared_mlp"),
    **routed_experts.NAMES,  # transformers' modules
    "model.layers.{i}.mlp.e_score_correction_bias": To("layers.{i}.mlp.router", parameter="correction"),
}

GGUF_NAMES = {
    "blk.{x}.**": IGNORE,
    **qwen3.GGUF_NAMES,
    **routed_experts.GGUF_NAMES,
    "blk.{i}.exp_probs_b": To("layers.{i}.mlp.router", parameter="correction"),  # as the converter names it
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    require_sigmoid(file)
    fields = {**common_fields(file), **gguf_expert_fields(file)}
    shared = file.size("expert_shared_feed_forward_length") or fields["moe_intermediate_size"]
    return {
        **fields,
        "num_shared_experts": shared // fields["moe_intermediate_size"],
        "router_scaling_factor": file.scale("expert_weights_scale") or 1.0,
        "mlp_layer_types": gguf_mlp_types(file),
    }


FAMILY = Family(describe, NAMES, GGUF_NAMES, gguf_fields)
