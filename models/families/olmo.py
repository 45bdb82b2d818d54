"""OLMo 1: Llama with LayerNorms without weights, and bounded queries, keys and values."""

import dataclasses
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.architecture.norm import NormKind, NormSpec
from models.checkpoints.gguf.fields import common_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.families import llama
from models.families.registry import Family


def describe(config: HFConfig) -> DecoderSpec:
    norm = NormSpec(NormKind.LAYER, 1e-5, has_weight=False)
    limit = config.number("clip_qkv") if config.has("clip_qkv") else None
    spec = llama.describe(config, llama.Defaults(activation="silu"))
    spec = spec.map_layers(lambda _, layer: dataclasses.replace(layer, norm=norm, qkv_limit=limit))
    return dataclasses.replace(spec, final_norm=norm)


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    return {**common_fields(file), "clip_qkv": file.scale("attention.clamp_kqv")}


FAMILY = Family(describe, llama.NAMES, llama.GGUF_NAMES, gguf_fields)
