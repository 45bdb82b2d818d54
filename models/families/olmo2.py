"""OLMo 2 (FAMILY) and OLMo 3: norms of whole query and key projections, and norms after the sublayers."""

import dataclasses
from typing import Any

from models.architecture.attention import QKNormScope, QKNormSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.layer import LayerSpec, NormPlacement
from models.checkpoints.gguf.fields import common_fields, window_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.checkpoints.gguf.rope import rope_parameters_by_layer
from models.config.hf_config import HFConfig
from models.config.layers import sliding_windows
from models.config.rope import rope_spec
from models.families import llama, qwen3
from models.families.name_map import To
from models.families.registry import Family


def describe(config: HFConfig) -> DecoderSpec:
    return llama.describe(config, llama.Defaults(eps=1e-5)).map_layers(lambda _, layer: with_post_norms(layer))


def with_post_norms(layer: LayerSpec) -> LayerSpec:
    return dataclasses.replace(
        layer, placement=NormPlacement.POST, qk_norm=QKNormSpec(layer.norm, QKNormScope.PROJECTION)
    )


def describe_olmo3(config: HFConfig) -> DecoderSpec:
    """Describe OLMo 3: OLMo 2 with a window in three of four layers; only the other layers have rotary scaling."""
    spec = describe(config)
    windows = sliding_windows(config, len(spec.layers), is_windowed=lambda index: (index + 1) % 4 != 0, default=4096)

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        kind = "full_attention" if windows[index] is None else "sliding_attention"
        rope = rope_spec(config, layer.attention.head_dim, layer_type=kind, default_theta=500000.0)
        if windows[index] is not None:
            rope = dataclasses.replace(rope, scaling=None)
        return dataclasses.replace(layer.with_window(windows[index]), rope=rope)

    return spec.map_layers(adapt)


NAMES = {
    **qwen3.NAMES,
    "model.layers.{i}.post_attention_layernorm.*": To("layers.{i}.attn_post_norm"),
    "model.layers.{i}.post_feedforward_layernorm.*": To("layers.{i}.mlp_post_norm"),
}

GGUF_NAMES = {
    **qwen3.GGUF_NAMES,
    "blk.{i}.post_attention_norm.*": To("layers.{i}.attn_post_norm"),
    "blk.{i}.post_ffw_norm.*": To("layers.{i}.mlp_post_norm"),
}


def gguf_olmo3(file: GGUFMetadata) -> dict[str, Any]:
    fields = {**common_fields(file), **window_fields(file)}
    return {**fields, "rope_parameters": rope_parameters_by_layer(file, fields["head_dim"])}


FAMILY = Family(describe, NAMES, GGUF_NAMES)
OLMO3 = Family(describe_olmo3, NAMES, GGUF_NAMES, gguf_olmo3)
