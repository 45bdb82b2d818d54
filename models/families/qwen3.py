"""Qwen3: Llama with norms of query and key heads."""

import dataclasses

from models.architecture.attention import QKNormSpec
from models.architecture.decoder import DecoderSpec
from models.config.hf_config import HFConfig
from models.families import llama, qwen2
from models.families.name_map import To
from models.families.registry import Family


def describe(config: HFConfig) -> DecoderSpec:
    spec = qwen2.with_upper_windows(config, llama.describe(config, llama.Defaults(head_dim=128)))
    return spec.map_layers(lambda _, layer: dataclasses.replace(layer, qk_norm=QKNormSpec(layer.norm)))


NAMES = {
    **llama.NAMES,
    "model.layers.{i}.self_attn.q_norm.*": To("layers.{i}.attn.q_norm"),
    "model.layers.{i}.self_attn.k_norm.*": To("layers.{i}.attn.k_norm"),
}

GGUF_NAMES = {
    **qwen2.GGUF_NAMES,
    "blk.{i}.attn_q_norm.*": To("layers.{i}.attn.q_norm"),
    "blk.{i}.attn_k_norm.*": To("layers.{i}.attn.k_norm"),
}

FAMILY = Family(describe, NAMES, GGUF_NAMES)
