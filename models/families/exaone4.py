"""EXAONE 4: norms after the sublayers, norms of query and key heads, no positions in layers without a window."""

import dataclasses
from typing import Any

from models.architecture.attention import QKNormSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.layer import LayerSpec, NormPlacement
from models.checkpoints.gguf.fields import common_fields, window_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.layers import sliding_windows
from models.families import llama, olmo2
from models.families.registry import Family


def describe(config: HFConfig) -> DecoderSpec:
    spec = llama.describe(config, llama.Defaults(eps=1e-5))
    windows = sliding_windows(
        config,
        len(spec.layers),
        is_windowed=lambda index: (index + 1) % config.integer("sliding_window_pattern", 4) != 0,
        default=4096,
    )
    has_windows = not config.is_null("sliding_window")

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        layer = dataclasses.replace(
            layer.with_window(windows[index]), placement=NormPlacement.POST, qk_norm=QKNormSpec(layer.norm)
        )
        return dataclasses.replace(layer, rope=None) if has_windows and windows[index] is None else layer

    return spec.map_layers(adapt)


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    return {**common_fields(file), "sliding_window": None, **window_fields(file)}


FAMILY = Family(describe, olmo2.NAMES, olmo2.GGUF_NAMES, gguf_fields)
