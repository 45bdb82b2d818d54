"""Mistral: Llama with a window on every layer where the configuration has one."""

import dataclasses

from models.families import llama
from models.hf_config import HFConfig
from models.registry import Family
from models.spec import DecoderSpec


def describe(config: HFConfig) -> DecoderSpec:
    spec = llama.describe(config)
    if not config.has("sliding_window"):
        return spec
    window = config.integer("sliding_window")
    layers = (
        dataclasses.replace(layer, attention=dataclasses.replace(layer.attention, sliding_window=window))
        for layer in spec.layers
    )
    return dataclasses.replace(spec, layers=tuple(layers))


FAMILY = Family(describe, llama.NAMES, llama.GGUF_NAMES)
