"""OLMoE: Llama with norms of whole query and key projections, and experts."""

import dataclasses
from typing import Any

from models.architecture.attention import QKNormScope, QKNormSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import MoESpec, RouterScore, RouterSpec
from models.architecture.layer import LayerSpec
from models.checkpoints.gguf.fields import common_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.errors import UnsupportedModelError
from models.families import llama, qwen3
from models.families.experts import GGUF_EXPERT_NAMES, expert_names, gguf_expert_fields
from models.families.name_map import To
from models.families.registry import Family


def describe(config: HFConfig) -> DecoderSpec:
    if config.has("clip_qkv"):
        raise UnsupportedModelError(f"{config.source}: clip_qkv, a bound on q, k and v, is not supported")
    router = RouterSpec(
        score=RouterScore.SOFTMAX,
        experts_per_token=config.integer("num_experts_per_tok", 8),
        renormalizes=config.boolean("norm_topk_prob", False),
    )
    num_experts = config.integer(config.first("num_experts", "num_local_experts"), 64)

    def adapt(_: int, layer: LayerSpec) -> LayerSpec:
        qk_norm = QKNormSpec(layer.norm, QKNormScope.PROJECTION)
        return dataclasses.replace(layer, qk_norm=qk_norm, mlp=MoESpec(num_experts, layer.dense_mlp, router))

    return llama.describe(config, llama.Defaults(eps=1e-5)).map_layers(adapt)


NAMES = {**qwen3.NAMES, "model.layers.{i}.mlp.gate.weight": To("layers.{i}.mlp.router"), **expert_names("mlp")}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    is_normed = file.boolean("expert_weights_norm", False)
    experts = gguf_expert_fields(file, size="intermediate_size")
    return {**common_fields(file), **experts, "norm_topk_prob": is_normed}


FAMILY = Family(describe, NAMES, {**qwen3.GGUF_NAMES, **GGUF_EXPERT_NAMES}, gguf_fields)
