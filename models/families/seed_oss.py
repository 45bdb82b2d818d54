"""Seed-OSS: Llama with biases of q, k and v, and separate flags for other biases."""

import dataclasses
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.checkpoints.gguf.fields import common_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.families import llama, qwen2
from models.families.name_map import To
from models.families.registry import Family


def describe(config: HFConfig) -> DecoderSpec:
    spec = llama.describe(config, llama.Defaults(head_dim=128, has_attention_bias=True, activation="silu"))
    has_out_bias = config.boolean("attention_out_bias", False)
    return spec.map_layers(lambda _, layer: dataclasses.replace(layer, has_out_bias=has_out_bias))


GGUF_NAMES = {**qwen2.GGUF_NAMES, "blk.{i}.post_attention_norm.*": To("layers.{i}.mlp_norm")}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    return {**common_fields(file), "attention_out_bias": "blk.0.attn_output.bias" in file.tensors}


FAMILY = Family(describe, llama.NAMES, GGUF_NAMES, gguf_fields)
