"""Mixtral: Mistral with experts in every layer."""

import dataclasses
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import MoESpec, RouterScore, RouterSpec
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.families import llama, mistral
from models.families.experts import GGUF_EXPERT_NAMES, expert_names, gguf_expert_fields
from models.families.name_map import To
from models.families.registry import Family


def describe(config: HFConfig) -> DecoderSpec:
    spec = mistral.with_windows(config, llama.describe(config, llama.Defaults(rope_theta=1e6, eps=1e-5)))

    router = RouterSpec(RouterScore.SOFTMAX, config.integer("num_experts_per_tok", 2), renormalizes=True)
    num_experts = config.integer("num_local_experts", 8)
    return spec.map_layers(
        lambda _, layer: dataclasses.replace(layer, mlp=MoESpec(num_experts, layer.dense_mlp, router))
    )


NAMES = {
    **llama.NAMES,
    "model.layers.{i}.block_sparse_moe.gate.weight": To("layers.{i}.mlp.router"),
    **expert_names("block_sparse_moe", gate="w1", up="w3", down="w2"),
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    return {**mistral.gguf_fields(file), **gguf_expert_fields(file, size="intermediate_size")}


FAMILY = Family(describe, NAMES, {**llama.GGUF_NAMES, **GGUF_EXPERT_NAMES}, gguf_fields)
