"""StarCoder and SantaCoder (GPTBigCode): GPT-2 with one key and value head for all queries, or one for each query."""

import dataclasses
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.architecture.layer import LayerSpec
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.families import gpt2
from models.families.name_map import IGNORE, To
from models.families.registry import Family
from models.families.transforms import ungroup_qkv


def describe(config: HFConfig) -> DecoderSpec:
    is_multi_query = config.boolean("multi_query", True)

    def adapt(_: int, layer: LayerSpec) -> LayerSpec:
        num_kv_heads = 1 if is_multi_query else layer.attention.num_heads
        attention = dataclasses.replace(layer.attention, num_kv_heads=num_kv_heads)
        return dataclasses.replace(layer, mixer=attention)

    return gpt2.describe(config).map_layers(adapt)


NAMES = {
    "transformer.wte.*": To("embed"),
    "transformer.wpe.*": To("position_embedding"),
    "transformer.h.{i}.ln_1.*": To("layers.{i}.attn_norm"),
    "transformer.h.{i}.attn.c_attn.*": To("layers.{i}.attn.qkv", transform=ungroup_qkv),
    "transformer.h.{i}.attn.c_proj.*": To("layers.{i}.attn.out"),
    "transformer.h.{i}.ln_2.*": To("layers.{i}.mlp_norm"),
    "transformer.h.{i}.mlp.c_fc.*": To("layers.{i}.mlp.up"),
    "transformer.h.{i}.mlp.c_proj.*": To("layers.{i}.mlp.down"),
    "transformer.ln_f.*": To("norm"),
    "transformer.h.{i}.attn.bias": IGNORE,  # causal masks, not weights
    "lm_head.*": To("head"),
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    return {**gpt2.gguf_fields(file), "multi_query": file.integer("attention.head_count_kv", 1) == 1}


FAMILY = Family(describe, NAMES, gpt2.GGUF_NAMES, gguf_fields)
