"""Qwen2-MoE and Qwen3-MoE: Qwen with experts in most layers, and in Qwen2-MoE an MLP beside them with a gate."""

import dataclasses

from models.families import qwen2, qwen3
from models.families.experts import GGUF_EXPERT_NAMES, expert_names, shared_names, sparse_layers
from models.hf_config import HFConfig
from models.names import To
from models.registry import Family
from models.spec import DecoderSpec, MLPSpec, MoESpec, RouterScore, RouterSpec


def describe_qwen2(config: HFConfig) -> DecoderSpec:
    mlp = _mlp(config, "shared_expert_intermediate_size")
    return _with_experts(config, qwen2.describe(config), shared=mlp)


def describe_qwen3(config: HFConfig) -> DecoderSpec:
    return _with_experts(config, qwen3.describe(config), shared=None)


def _with_experts(config: HFConfig, spec: DecoderSpec, *, shared: MLPSpec | None) -> DecoderSpec:
    moe = MoESpec(
        num_experts=config.integer(config.first("num_experts", "num_local_experts")),
        expert=_mlp(config, "moe_intermediate_size"),
        router=RouterSpec(
            score=RouterScore.SOFTMAX,
            experts_per_token=config.integer("num_experts_per_tok"),
            renormalises=config.boolean("norm_topk_prob", False),
        ),
        shared=shared,
        has_shared_gate=shared is not None,
    )
    is_sparse = sparse_layers(config, len(spec.layers))
    return spec.map_layers(lambda index, layer: dataclasses.replace(layer, mlp=moe) if is_sparse[index] else layer)


def _mlp(config: HFConfig, size: str) -> MLPSpec:
    return MLPSpec(config.integer(size), config.activation("hidden_act"), is_gated=True)


_EXPERTS = {
    "model.layers.{i}.mlp.gate.weight": To("layers.{i}.mlp.router"),
    **expert_names("mlp"),
    **shared_names("mlp"),
}

QWEN2 = Family(describe_qwen2, {**qwen2.NAMES, **_EXPERTS}, {**qwen2.GGUF_NAMES, **GGUF_EXPERT_NAMES})
QWEN3 = Family(describe_qwen3, {**qwen3.NAMES, **_EXPERTS}, {**qwen3.GGUF_NAMES, **GGUF_EXPERT_NAMES})
