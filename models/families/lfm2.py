"""LFM2: short convolutions in most layers, attention in the others."""

import dataclasses
from typing import Any

from models.architecture.attention import QKNormSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.layer import LayerSpec
from models.architecture.recurrence import ShortConvSpec
from models.checkpoints.gguf.fields import common_fields, layer_counts, with_largest
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.layers import kinds_of_layers
from models.families import llama, qwen3
from models.families.name_map import To
from models.families.registry import Family
from models.families.sublayers import attention_names, mlp_names
from models.families.transforms import conv_weight

_KINDS = ("conv", "full_attention")


def describe(config: HFConfig) -> DecoderSpec:
    return describe_sized(config, _mlp_size(config))


def describe_sized(config: HFConfig, mlp_size: int) -> DecoderSpec:
    as_llama = {
        "hidden_act": "silu",
        "rms_norm_eps": config.number("norm_eps", 1e-5),
        "intermediate_size": mlp_size,
        "tie_word_embeddings": config.boolean(config.first("tie_embedding", "tie_word_embeddings"), True),
    }
    spec = llama.describe(config.with_fields(as_llama), llama.Defaults(rope_theta=1e6))
    count, conv = len(spec.layers), short_conv(config, spec, kernel_size=3)
    attending = config.token_ids("full_attn_idxs") if config.has("full_attn_idxs") else range(count)
    kinds = kinds_of_layers(config, count, _KINDS, lambda index: _KINDS[index in attending])

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        if kinds[index] == "conv":
            return dataclasses.replace(layer, mixer=conv, rope=None)
        return dataclasses.replace(layer, qk_norm=QKNormSpec(layer.norm))

    return spec.map_layers(adapt)


def short_conv(config: HFConfig, spec: DecoderSpec, kernel_size: int) -> ShortConvSpec:
    """Return the convolution of all channels. kernel_size: if the configuration does not say."""
    kernel_size = config.integer("conv_L_cache", kernel_size, minimum=2, maximum=8)
    return ShortConvSpec(spec.hidden_size, kernel_size, config.boolean("conv_bias", False))


def _mlp_size(config: HFConfig) -> int:
    """Return the MLP's size: by default two thirds of the configured size, rounded up, since it has three matrices."""
    size = config.integer(config.first("block_ff_dim", "intermediate_size"))
    if not config.boolean("block_auto_adjust_ff_dim", True):
        return size
    size = 2 * size // 3
    if config.is_null("block_ffn_dim_multiplier"):
        return size
    multiple = config.integer("block_multiple_of", 256)
    return -(-int(config.number("block_ffn_dim_multiplier", 1.0) * size) // multiple) * multiple


NAMES = {
    "model.embed_tokens.*": To("embed"),
    "model.embedding_norm.*": To("norm"),  # after the last layer, despite its name
    "lm_head.*": To("head"),
    "model.layers.{i}.operator_norm.*": To("layers.{i}.attn_norm"),
    **attention_names("self_attn", out="out_proj"),
    "model.layers.{i}.self_attn.q_layernorm.*": To("layers.{i}.attn.q_norm"),
    "model.layers.{i}.self_attn.k_layernorm.*": To("layers.{i}.attn.k_norm"),
    "model.layers.{i}.conv.in_proj.*": To("layers.{i}.attn.in_proj"),
    "model.layers.{i}.conv.conv.weight": To("layers.{i}.attn", None, conv_weight, "conv_weight"),
    "model.layers.{i}.conv.conv.bias": To("layers.{i}.attn", parameter="conv_bias"),
    "model.layers.{i}.conv.out_proj.*": To("layers.{i}.attn.out", when_present="layers.{i}.attn.in_proj"),
    "model.layers.{i}.ffn_norm.*": To("layers.{i}.mlp_norm"),
    **mlp_names("feed_forward", gate="w1", up="w3", down="w2"),
}

GGUF_NAMES = {
    **qwen3.GGUF_NAMES,
    "token_embd_norm.*": To("norm"),
    "blk.{i}.shortconv.in_proj.*": To("layers.{i}.attn.in_proj"),
    "blk.{i}.shortconv.conv.weight": To("layers.{i}.attn", None, conv_weight, "conv_weight"),
    "blk.{i}.shortconv.conv.bias": To("layers.{i}.attn", parameter="conv_bias"),
    "blk.{i}.shortconv.out_proj.*": To("layers.{i}.attn.out"),
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    """Return the fields of config.json. Layers without key heads have a convolution."""
    counts = layer_counts(file, "attention.head_count_kv")
    return {
        **common_fields(with_largest(file, "attention.head_count_kv")),
        "layer_types": ["full_attention" if count else "conv" for count in counts],
        "norm_eps": file.number("attention.layer_norm_rms_epsilon"),
        "conv_L_cache": file.integer("shortconv.l_cache"),
        "conv_bias": any(name.endswith("shortconv.conv.bias") for name in file.tensors),
        "block_auto_adjust_ff_dim": False,  # the file's size is already adjusted
    }


FAMILY = Family(describe, NAMES, GGUF_NAMES, gguf_fields)
