"""Hunyuan: Llama with norms of query and key heads after rotary embedding."""

import dataclasses

from models.architecture.attention import QKNormSpec
from models.architecture.decoder import DecoderSpec
from models.config.hf_config import HFConfig
from models.families import llama, qwen3
from models.families.name_map import To
from models.families.registry import Family


def describe(config: HFConfig) -> DecoderSpec:
    spec = llama.describe(config, llama.Defaults(eps=1e-5, activation="silu"))
    return spec.map_layers(
        lambda _, layer: dataclasses.replace(layer, qk_norm=QKNormSpec(layer.norm, is_after_rope=True))
    )


NAMES = {
    **llama.NAMES,
    "model.layers.{i}.self_attn.query_layernorm.*": To("layers.{i}.attn.q_norm"),
    "model.layers.{i}.self_attn.key_layernorm.*": To("layers.{i}.attn.k_norm"),
}

FAMILY = Family(describe, NAMES, qwen3.GGUF_NAMES)
