"""The experts of Nemotron 3: without gates, chosen as DeepSeek's, in the largest model in a latent size."""

import dataclasses
from typing import Any

from models.architecture.feed_forward import MLPSpec, MoESpec
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.errors import UnsupportedModelError
from models.families import routed_experts
from models.families.experts import require_sigmoid
from models.families.name_map import To

_ROUTING = {**routed_experts.UNGROUPED_DEFAULTS, "num_experts_per_tok": 2, "routed_scaling_factor": 1.0}


def describe(config: HFConfig) -> MoESpec:
    activation, has_bias = config.activation("mlp_hidden_act", "relu2"), config.boolean("mlp_bias", False)
    expert = MLPSpec(config.integer("moe_intermediate_size", 7688), activation, is_gated=False)
    shared_size = config.integer("moe_shared_expert_intermediate_size", 7688)
    return MoESpec(
        num_experts=config.integer("n_routed_experts", 8),
        expert=expert,
        router=routed_experts.router(config.with_fields(routed_experts.SIGMOID), _ROUTING),
        shared=dataclasses.replace(expert.with_size(shared_size), has_up_bias=has_bias, has_down_bias=has_bias),
        latent_size=config.integer("moe_latent_size") if config.has("moe_latent_size") else None,
        has_latent_bias=has_bias,
    )


_BLOCK = "model.layers.{i}.mixer"
NAMES = {
    f"{_BLOCK}.gate.weight": To("layers.{i}.mlp.router"),
    f"{_BLOCK}.gate.e_score_correction_bias": To("layers.{i}.mlp.router", parameter="correction"),
    f"{_BLOCK}.fc1_latent_proj.*": To("layers.{i}.mlp.latent_down"),
    f"{_BLOCK}.fc2_latent_proj.*": To("layers.{i}.mlp.latent_up"),
    f"{_BLOCK}.experts.{{e}}.up_proj.*": To("layers.{i}.mlp.experts.{e}.up"),
    f"{_BLOCK}.experts.{{e}}.down_proj.*": To("layers.{i}.mlp.experts.{e}.down"),
    f"{_BLOCK}.experts.up_proj": To("layers.{i}.mlp.experts.{e}.up"),
    f"{_BLOCK}.experts.down_proj": To("layers.{i}.mlp.experts.{e}.down"),
    f"{_BLOCK}.shared_experts.up_proj.*": To("layers.{i}.mlp.shared.up"),
    f"{_BLOCK}.shared_experts.down_proj.*": To("layers.{i}.mlp.shared.down"),
}

GGUF_NAMES = {
    **routed_experts.GGUF_NAMES,
    "blk.{i}.ffn_up_exps.*": To("layers.{i}.mlp.experts.{e}.up"),
    "blk.{i}.ffn_up_shexp.*": To("layers.{i}.mlp.shared.up"),
    "blk.{i}.ffn_latent_down.*": To("layers.{i}.mlp.latent_down"),
    "blk.{i}.ffn_latent_up.*": To("layers.{i}.mlp.latent_up"),
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    """Return the fields of config.json. file: metadata with one feed-forward size for all layers."""
    require_sigmoid(file)
    if (num_shared := file.integer("expert_shared_count", 1)) != 1:
        raise UnsupportedModelError(f"{file.source}: expert_shared_count is {num_shared}; supported is 1")
    return {
        **routed_experts.gguf_fields(file),
        "moe_shared_expert_intermediate_size": file.integer("expert_shared_feed_forward_length"),
        "moe_latent_size": file.size("moe_latent_size"),
    }
