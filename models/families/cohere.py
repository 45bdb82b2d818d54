"""Command R and R+ (Cohere), Command R7B and A (Cohere 2): parallel attention and MLP after one LayerNorm."""

import dataclasses
from typing import Any

from models.architecture.attention import QKNormScope, QKNormSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.layer import LayerSpec, NormPlacement
from models.architecture.norm import NormKind, NormSpec
from models.checkpoints.gguf.fields import common_fields, window_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.layers import sliding_windows
from models.families import llama
from models.families.name_map import To
from models.families.registry import Family
from models.families.transforms import unpermute_head, unpermute_k, unpermute_q

_DEFAULTS = llama.Defaults(rope_theta=500000.0, has_tied_head=True)
_DEFAULTS2 = llama.Defaults(rope_theta=10000.0, has_tied_head=True)


def describe_cohere(config: HFConfig, defaults: llama.Defaults = _DEFAULTS) -> DecoderSpec:
    norm = NormSpec(NormKind.LAYER, config.number("layer_norm_eps", 1e-5))
    qk_norm = QKNormSpec(norm, QKNormScope.HEAD_OWN_WEIGHTS) if config.boolean("use_qk_norm", False) else None

    def adapt(_: int, layer: LayerSpec) -> LayerSpec:
        return dataclasses.replace(layer, norm=norm, placement=NormPlacement.PARALLEL_ONE_NORM, qk_norm=qk_norm)

    return dataclasses.replace(
        llama.describe(config, defaults).map_layers(adapt),
        final_norm=norm,
        logit_scale=config.number("logit_scale", 0.0625),
    )


def describe_cohere2(config: HFConfig) -> DecoderSpec:
    """Describe Cohere 2: three of four layers have a window, and only these have rotary embeddings."""
    spec = describe_cohere(config, _DEFAULTS2)
    pattern = config.integer("sliding_window_pattern", 4)
    windows = sliding_windows(
        config, len(spec.layers), is_windowed=lambda index: (index + 1) % pattern != 0, default=4096
    )

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        layer = layer.with_window(windows[index])
        return dataclasses.replace(layer, rope=None) if windows[index] is None else layer

    return spec.map_layers(adapt)


# Rotary pairs are neighboring dimensions.
NAMES = {
    **llama.NAMES,
    "model.layers.{i}.self_attn.q_proj.*": To("layers.{i}.attn.qkv", "q", unpermute_q),
    "model.layers.{i}.self_attn.k_proj.*": To("layers.{i}.attn.qkv", "k", unpermute_k),
    "model.layers.{i}.self_attn.q_norm.*": To("layers.{i}.attn.q_norm", transform=unpermute_head),
    "model.layers.{i}.self_attn.k_norm.*": To("layers.{i}.attn.k_norm", transform=unpermute_head),
}

GGUF_NAMES = {
    **llama.GGUF_NAMES,
    "blk.{i}.attn_q_norm.*": To("layers.{i}.attn.q_norm", transform=unpermute_head),
    "blk.{i}.attn_k_norm.*": To("layers.{i}.attn.k_norm", transform=unpermute_head),
}


def gguf_cohere(file: GGUFMetadata) -> dict[str, Any]:
    has_norms = "blk.0.attn_q_norm.weight" in file.tensors
    return {**common_fields(file), "logit_scale": file.scale("logit_scale"), "use_qk_norm": has_norms}


def gguf_cohere2(file: GGUFMetadata) -> dict[str, Any]:
    return {**gguf_cohere(file), **window_fields(file)}


COHERE = Family(describe_cohere, NAMES, GGUF_NAMES, gguf_cohere)
COHERE2 = Family(describe_cohere2, NAMES, GGUF_NAMES, gguf_cohere2)
