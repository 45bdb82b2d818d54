"""Qwen2 and Qwen2.5: Llama with biases on q, k and v, and a window on the upper layers where it is switched on."""

import dataclasses

from models.families import llama
from models.hf_config import HFConfig
from models.names import To
from models.registry import Family
from models.spec import DecoderSpec, LayerSpec


def describe(config: HFConfig) -> DecoderSpec:
    window = config.integer("sliding_window", 4096) if config.boolean("use_sliding_window", False) else None
    first_windowed = config.integer("max_window_layers", 28, minimum=0)
    spec = llama.describe(config)

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        attention = layer.attention
        if index >= first_windowed:
            attention = dataclasses.replace(attention, sliding_window=window)
        return dataclasses.replace(layer, attention=attention, has_qkv_bias=True, has_out_bias=False)

    return dataclasses.replace(spec, layers=tuple(adapt(index, layer) for index, layer in enumerate(spec.layers)))


NAMES = llama.NAMES

GGUF_NAMES = {  # GGUF keeps this family's rotary halves as they are
    **llama.GGUF_NAMES,
    "blk.{i}.attn_q.*": To("layers.{i}.attn.qkv", "q"),
    "blk.{i}.attn_k.*": To("layers.{i}.attn.qkv", "k"),
}

FAMILY = Family(describe, NAMES, GGUF_NAMES)
