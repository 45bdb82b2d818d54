"""Qwen2 and Qwen2.5: Llama with biases of q, k and v, and a window in the upper layers if it is enabled."""

import dataclasses

from models.architecture.decoder import DecoderSpec
from models.config.hf_config import HFConfig
from models.config.layers import sliding_windows
from models.families import llama
from models.families.name_map import To
from models.families.registry import Family


def describe(config: HFConfig) -> DecoderSpec:
    spec = with_upper_windows(config, llama.describe(config))
    return spec.map_layers(lambda _, layer: dataclasses.replace(layer, has_qkv_bias=True, has_out_bias=False))


def with_upper_windows(config: HFConfig, spec: DecoderSpec) -> DecoderSpec:
    """Return `spec` with `sliding_window` in the upper layers, if `use_sliding_window` is true."""
    if not config.boolean("use_sliding_window", False):
        return spec
    first = config.integer("max_window_layers", 28, minimum=0)
    windows = sliding_windows(config, len(spec.layers), is_windowed=lambda index: index >= first, default=4096)
    return spec.map_layers(lambda index, layer: layer.with_window(windows[index]))


NAMES = llama.NAMES

GGUF_NAMES = {  # rotary pairs as in the checkpoint
    **llama.GGUF_NAMES,
    "blk.{i}.attn_q.*": To("layers.{i}.attn.qkv", "q"),
    "blk.{i}.attn_k.*": To("layers.{i}.attn.qkv", "k"),
    "blk.{i}.attn_qkv.*": To("layers.{i}.attn.qkv"),
}

FAMILY = Family(describe, NAMES, GGUF_NAMES)
