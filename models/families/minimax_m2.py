"""MiniMax M2: norms of whole query and key projections, partly rotated heads, sigmoid experts in every layer."""

import dataclasses
from typing import Any

from models.architecture.attention import QKNormScope, QKNormSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import MoESpec, RouterScore, RouterSpec
from models.architecture.layer import LayerSpec
from models.checkpoints.gguf.fields import common_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.families import llama, mixtral, qwen3
from models.families.experts import GGUF_EXPERT_NAMES, gguf_expert_fields, require_sigmoid
from models.families.name_map import To
from models.families.registry import Family


def describe(config: HFConfig) -> DecoderSpec:
    head_dim = config.integer("head_dim", 128)
    share = config.integer("rotary_dim", head_dim) / head_dim  # the name of released checkpoints
    router = RouterSpec(
        RouterScore.SIGMOID, config.integer("num_experts_per_tok", 8), renormalizes=True, has_correction=True
    )
    num_experts = config.integer("num_local_experts", 256)

    def adapt(_: int, layer: LayerSpec) -> LayerSpec:
        qk_norm = QKNormSpec(layer.norm, QKNormScope.PROJECTION)
        return dataclasses.replace(layer, qk_norm=qk_norm, mlp=MoESpec(num_experts, layer.dense_mlp, router))

    defaults = llama.Defaults(head_dim=128, rope_theta=5e6, rotary_share=share, activation="silu")
    return llama.describe(config, defaults).map_layers(adapt)


NAMES = {
    **qwen3.NAMES,
    **mixtral.NAMES,
    "model.layers.{i}.block_sparse_moe.e_score_correction_bias": To("layers.{i}.mlp.router", parameter="correction"),
}

GGUF_NAMES = {
    **qwen3.GGUF_NAMES,
    **GGUF_EXPERT_NAMES,
    "blk.{i}.exp_probs_b.bias": To("layers.{i}.mlp.router", parameter="correction"),
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    require_sigmoid(file)
    return {**common_fields(file), **gguf_expert_fields(file, size="intermediate_size")}


FAMILY = Family(describe, NAMES, GGUF_NAMES, gguf_fields)
