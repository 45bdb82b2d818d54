"""K-EXAONE (EXAONE MoE): EXAONE 4's attention after a norm of its input, and DeepSeek V3's experts."""

import dataclasses
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.architecture.layer import NormPlacement
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.families import exaone4, qwen3, routed_experts
from models.families.experts import require_sigmoid
from models.families.name_map import IGNORE, To
from models.families.registry import Family


def describe(config: HFConfig) -> DecoderSpec:
    spec = exaone4.describe(config)
    spec = spec.map_layers(lambda _, layer: dataclasses.replace(layer, placement=NormPlacement.PRE))
    as_deepseek = {
        **routed_experts.SIGMOID,
        "n_routed_experts": config.integer("num_experts", 64),
        "n_shared_experts": config.integer("num_shared_experts", 1, minimum=0),
        "moe_intermediate_size": config.integer("moe_intermediate_size", 1024),
    }
    config = config.with_fields(as_deepseek)
    return routed_experts.with_experts(config, spec, routed_experts.UNGROUPED_DEFAULTS)


NAMES = {
    "mtp.**": IGNORE,  # multi-token prediction
    **qwen3.NAMES,
    **routed_experts.NAMES,
    "model.layers.{i}.mlp.e_score_correction_bias": To("layers.{i}.mlp.router", parameter="correction"),
}

GGUF_NAMES = {"blk.{x}.**": IGNORE, **qwen3.GGUF_NAMES, **routed_experts.GGUF_NAMES}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    require_sigmoid(file)
    fields = {**exaone4.gguf_fields(file), **routed_experts.gguf_fields(file)}
    return {**fields, "num_shared_experts": fields["n_shared_experts"]}


FAMILY = Family(describe, NAMES, GGUF_NAMES, gguf_fields)
