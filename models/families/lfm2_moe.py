"""LFM2-MoE: LFM2 with experts, chosen by corrected sigmoids, in all but the first layers."""

import dataclasses
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import MLPSpec, MoESpec, RouterScore, RouterSpec
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.families import lfm2, routed_experts
from models.families.experts import gguf_expert_fields, require_sigmoid
from models.families.registry import Family


def describe(config: HFConfig) -> DecoderSpec:
    spec = lfm2.describe_sized(config, config.integer("intermediate_size"))
    router = RouterSpec(
        score=RouterScore.SIGMOID,
        experts_per_token=config.integer("num_experts_per_tok", 4),
        renormalizes=config.boolean("norm_topk_prob", True),
        has_correction=config.boolean("use_expert_bias", True),
        scale=config.number("routed_scaling_factor", 1.0),
    )
    expert = MLPSpec(config.integer("moe_intermediate_size"), config.activation("hidden_act", "silu"), is_gated=True)
    moe = MoESpec(config.integer("num_experts", 32), expert, router)
    num_dense = config.integer("num_dense_layers", 2, minimum=0)
    return spec.map_layers(lambda index, layer: layer if index < num_dense else dataclasses.replace(layer, mlp=moe))


NAMES = {
    **lfm2.NAMES,
    **routed_experts.names_in("feed_forward", correction="expert_bias", gate="w1", up="w3", down="w2"),
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    require_sigmoid(file)
    return {
        **lfm2.gguf_fields(file),
        **gguf_expert_fields(file),
        "num_dense_layers": file.integer("leading_dense_block_count", 0, minimum=0),
        "use_expert_bias": any(".exp_probs_b." in name for name in file.tensors),
    }


FAMILY = Family(describe, NAMES, {**lfm2.GGUF_NAMES, **routed_experts.GGUF_NAMES}, gguf_fields)
