"""SmolLM3: Llama without positions in every fourth layer."""

import dataclasses

from models.architecture.decoder import DecoderSpec
from models.config.hf_config import HFConfig
from models.config.layers import rope_layers, sliding_windows
from models.families import llama
from models.families.registry import Family


def describe(config: HFConfig) -> DecoderSpec:
    spec = llama.describe(config, llama.Defaults(rope_theta=2000000.0, has_tied_head=True))
    num_layers = len(spec.layers)
    has_rope = rope_layers(config, num_layers)
    windows: list[int | None] = [None] * num_layers
    if config.boolean("use_sliding_window", False):
        windows = sliding_windows(config, num_layers, is_windowed=lambda index: not has_rope[index])
    return spec.map_layers(
        lambda index, layer: dataclasses.replace(
            layer.with_window(windows[index]), rope=layer.rope if has_rope[index] else None
        )
    )


FAMILY = Family(describe, llama.NAMES, llama.GGUF_NAMES)
