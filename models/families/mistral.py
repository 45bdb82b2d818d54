"""Mistral, Ministral and Ministral 3: Llama with windows, or with queries that grow with their position."""

import dataclasses
from typing import Any

from models.checkpoints.gguf_fields import common_fields, window_fields
from models.checkpoints.gguf_metadata import GGUFMetadata
from models.families import llama
from models.families.wrapped import text_part
from models.hf_config import HFConfig
from models.layer_config import sliding_windows
from models.registry import Family
from models.spec import DecoderSpec, QueryTemperature


def describe(config: HFConfig) -> DecoderSpec:
    spec = llama.describe(config)
    windows = sliding_windows(config, len(spec.layers), is_windowed=lambda _: True)
    return spec.map_layers(lambda index, layer: layer.with_window(windows[index]))


def describe_ministral3(config: HFConfig) -> DecoderSpec:
    spec = describe(config)
    rope = config.section("rope_parameters")
    if not rope.has("llama_4_scaling_beta"):
        return spec
    temperature = QueryTemperature(
        scale=rope.number("llama_4_scaling_beta", minimum=0.0),
        floor_scale=rope.number("original_max_position_embeddings"),
        offset=0,
    )
    return spec.map_layers(lambda _, layer: dataclasses.replace(layer, query_temperature=temperature))


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    return {**common_fields(file), **window_fields(file)}


def gguf_ministral3(file: GGUFMetadata) -> dict[str, Any]:
    fields = gguf_fields(file)
    rope = {**fields["rope_parameters"], "llama_4_scaling_beta": file.scale("attention.temperature_scale")}
    return {**fields, "rope_parameters": rope}


FAMILY = Family(describe, llama.NAMES, llama.GGUF_NAMES, gguf_fields)
MINISTRAL3 = Family(describe_ministral3, llama.NAMES, llama.GGUF_NAMES, gguf_ministral3)
WRAPPED = text_part(MINISTRAL3)  # of Mistral Small 3.1 and later, Ministral 3
