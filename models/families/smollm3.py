"""SmolLM3: Llama without positions in every fourth layer."""

import dataclasses

from models.architecture.decoder import DecoderSpec
from models.config.hf_config import HFConfig
from models.config.layers import flags_by_layer, sliding_windows
from models.families import llama
from models.families.registry import Family


def describe(config: HFConfig) -> DecoderSpec:
    spec = llama.describe(config, llama.Defaults(rope_theta=2000000.0, has_tied_head=True))
    num_layers = len(spec.layers)
    interval = config.integer("no_rope_layer_interval", 4)
    # 1 where there is a rotary embedding, despite the field's name.
    has_rope = flags_by_layer(config, "no_rope_layers", num_layers, otherwise=lambda index: (index + 1) % interval != 0)
    windows: list[int | None] = [None] * num_layers
    if config.boolean("use_sliding_window", False):
        windows = sliding_windows(config, num_layers, is_windowed=lambda index: not has_rope[index])
    return spec.map_layers(
        lambda index, layer: dataclasses.replace(
            layer.with_window(windows[index]), rope=layer.rope if has_rope[index] else None
        )
    )


FAMILY = Family(describe, llama.NAMES, llama.GGUF_NAMES)
