"""Mistral, Ministral and Ministral 3: Llama with windows, or with queries scaled by position."""

import dataclasses
from typing import Any

from models.architecture.attention import QueryTemperature
from models.architecture.decoder import DecoderSpec
from models.checkpoints.gguf.fields import common_fields, window_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.layers import sliding_windows
from models.config.rope import with_default_rope
from models.families import llama
from models.families.registry import Family

_ROPE_3 = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}


def describe(config: HFConfig) -> DecoderSpec:
    return with_windows(config, llama.describe(config), default=4096)


def with_windows(config: HFConfig, spec: DecoderSpec, *, default: int | None = None) -> DecoderSpec:
    """Return `spec` with `sliding_window` in all layers, or in the layers that `layer_types` names."""
    windows = sliding_windows(config, len(spec.layers), is_windowed=lambda _: True, default=default)
    return spec.map_layers(lambda index, layer: layer.with_window(windows[index]))


def describe_ministral3(config: HFConfig) -> DecoderSpec:
    config = with_default_rope(config, _ROPE_3)
    spec = with_windows(config, llama.describe(config, llama.Defaults(head_dim=128, eps=1e-5)))
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
