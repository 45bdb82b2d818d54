"""Gemma 4's experts beside the dense MLP: a router with a norm and a scale of each expert, and norms of their own."""

from typing import Any

from models.architecture.feed_forward import MoESpec, RouterScore, RouterSpec
from models.architecture.layer import LayerSpec
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.families.experts import expert_names, gguf_stacked_names
from models.families.name_map import To
from models.families.transforms import over_root_size


def describe(config: HFConfig, layer: LayerSpec) -> MoESpec | None:
    """Return the experts of a layer, or None if the model has none."""
    if not config.boolean("enable_moe_block", False):
        return None
    router = RouterSpec(
        RouterScore.SOFTMAX, config.integer("top_k_experts"), renormalizes=True, norm=layer.norm, has_expert_scale=True
    )
    expert = layer.dense_mlp.with_size(config.integer("moe_intermediate_size"))
    return MoESpec(config.integer("num_experts"), expert, router)


NAMES = {
    "model.layers.{i}.post_feedforward_layernorm_1.*": To("layers.{i}.mlp_own_norm"),
    "model.layers.{i}.pre_feedforward_layernorm_2.*": To("layers.{i}.moe_norm"),
    "model.layers.{i}.post_feedforward_layernorm_2.*": To("layers.{i}.moe_own_norm"),
    "model.layers.{i}.router.proj.weight": To("layers.{i}.moe.router"),
    "model.layers.{i}.router.scale": To("layers.{i}.moe.router.norm", transform=over_root_size),
    "model.layers.{i}.router.per_expert_scale": To("layers.{i}.moe.router", parameter="expert_scale"),
    **expert_names("", place="moe"),
}

GGUF_NAMES = {
    "blk.{i}.post_ffw_norm_1.*": To("layers.{i}.mlp_own_norm"),
    "blk.{i}.pre_ffw_norm_2.*": To("layers.{i}.moe_norm"),
    "blk.{i}.post_ffw_norm_2.*": To("layers.{i}.moe_own_norm"),
    "blk.{i}.ffn_gate_inp.scale": To("layers.{i}.moe.router.norm", transform=over_root_size),
    "blk.{i}.ffn_down_exps.scale": To("layers.{i}.moe.router", parameter="expert_scale"),
    **gguf_stacked_names("moe"),
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    return {
        "enable_moe_block": bool(file.size("expert_count")),
        "num_experts": file.size("expert_count"),
        "top_k_experts": file.size("expert_used_count"),
        "moe_intermediate_size": file.size("expert_feed_forward_length"),
    }
