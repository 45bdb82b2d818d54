"""Qwen2-MoE and Qwen3-MoE: Qwen with experts in most layers, and in Qwen2-MoE a gated shared expert."""

import dataclasses
from typing import Any

import torch

from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import MLPSpec, MoESpec, RouterScore, RouterSpec
from models.architecture.layer import LayerSpec
from models.checkpoints.gguf.fields import common_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.families import qwen2, qwen3
from models.families.experts import GGUF_EXPERT_NAMES, expert_names, gguf_expert_fields, shared_names
from models.families.name_map import To
from models.families.registry import Family


def describe_qwen2(config: HFConfig) -> DecoderSpec:
    return with_experts(config, qwen2.describe(config), has_shared=True)


def describe_qwen3(config: HFConfig) -> DecoderSpec:
    return with_experts(config, qwen3.describe(config), has_shared=False)


def describe_qwen3_vl(config: HFConfig) -> DecoderSpec:
    return with_experts(config, qwen3.describe(config), has_shared=False, default_renormalizes=True)


def with_experts(
    config: HFConfig, spec: DecoderSpec, *, has_shared: bool, default_renormalizes: bool = False
) -> DecoderSpec:
    moe = MoESpec(
        num_experts=config.integer(config.first("num_experts", "num_local_experts")),
        expert=_mlp(config, "moe_intermediate_size"),
        router=RouterSpec(
            score=RouterScore.SOFTMAX,
            experts_per_token=config.integer("num_experts_per_tok"),
            renormalizes=config.boolean("norm_topk_prob", default_renormalizes),
        ),
        shared=_mlp(config, "shared_expert_intermediate_size") if has_shared else None,
        has_shared_gate=has_shared,
    )
    step, dense = config.integer("decoder_sparse_step", 1), config.token_ids("mlp_only_layers")

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        return layer if index in dense or (index + 1) % step else dataclasses.replace(layer, mlp=moe)

    return spec.map_layers(adapt)


def _mlp(config: HFConfig, size: str) -> MLPSpec:
    return MLPSpec(config.integer(size), config.activation("hidden_act"), is_gated=True)


EXPERT_NAMES = {
    "model.layers.{i}.mlp.gate.weight": To("layers.{i}.mlp.router"),
    **expert_names("mlp"),
    **shared_names("mlp"),
}


def gate_up_rows(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    """Return an expert's gate and up with outputs along the first dimension; checkpoints have either order."""
    return tensor if len(tensor) == 2 * _expert_size(layer) else tensor.t()


def down_rows(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    return tensor if tensor.shape[1] == _expert_size(layer) else tensor.t()


def _expert_size(layer: LayerSpec | None) -> int:
    assert layer is not None
    assert isinstance(layer.mlp, MoESpec)
    return layer.mlp.expert.intermediate_size


_VL_EXPERT_NAMES = {
    **EXPERT_NAMES,
    "model.layers.{i}.mlp.experts.gate_up_proj": To("layers.{i}.mlp.experts.{e}.gate_up", transform=gate_up_rows),
    "model.layers.{i}.mlp.experts.down_proj": To("layers.{i}.mlp.experts.{e}.down", transform=down_rows),
}

_GGUF_NAMES_2 = {**qwen2.GGUF_NAMES, **GGUF_EXPERT_NAMES}
_GGUF_NAMES_3 = {**qwen3.GGUF_NAMES, **GGUF_EXPERT_NAMES}


def gguf_qwen2(file: GGUFMetadata) -> dict[str, Any]:
    shared = file.size("expert_shared_feed_forward_length") or file.integer("feed_forward_length")
    is_normed = file.boolean("expert_weights_norm", False)  # the family's value; most files do not state it
    fields = {**common_fields(file), **gguf_expert_fields(file)}
    return {**fields, "shared_expert_intermediate_size": shared, "norm_topk_prob": is_normed}


def gguf_qwen3(file: GGUFMetadata) -> dict[str, Any]:
    is_normed = file.boolean("expert_weights_norm", True)  # the family's value; most files do not state it
    return {**common_fields(file), **gguf_expert_fields(file), "norm_topk_prob": is_normed}


QWEN2 = Family(describe_qwen2, {**qwen2.NAMES, **EXPERT_NAMES}, _GGUF_NAMES_2, gguf_qwen2)
QWEN3_VL = Family(describe_qwen3_vl, {**qwen3.NAMES, **_VL_EXPERT_NAMES}, _GGUF_NAMES_3, gguf_qwen3)
QWEN3 = Family(describe_qwen3, {**qwen3.NAMES, **EXPERT_NAMES}, _GGUF_NAMES_3, gguf_qwen3)
