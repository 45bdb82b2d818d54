"""GLM-4 of 2024 (GLM) and of 2025 (GLM4): half of each head rotated, in neighboring pairs; GLM4 has sandwich norms."""

import dataclasses

from models.architecture.decoder import DecoderSpec
from models.architecture.layer import NormPlacement
from models.config.hf_config import HFConfig
from models.families import llama, phi3
from models.families.name_map import IGNORE, To
from models.families.registry import Family
from models.families.transforms import unpermute_k, unpermute_q


def describe(config: HFConfig) -> DecoderSpec:
    spec = llama.describe(
        config, llama.Defaults(head_dim=128, rotary_share=0.5, eps=1.5625e-7, has_attention_bias=True)
    )
    # attention_bias is only for q, k and v
    return spec.map_layers(lambda _, layer: dataclasses.replace(layer, has_out_bias=False))


def describe_sandwich(config: HFConfig) -> DecoderSpec:
    return _with_sandwich_norms(describe(config))


def describe_vision(config: HFConfig) -> DecoderSpec:
    return _describe_vision(config, has_bias=True)


def describe_ocr(config: HFConfig) -> DecoderSpec:
    return _describe_vision(config, has_bias=False)


def _describe_vision(config: HFConfig, *, has_bias: bool) -> DecoderSpec:
    spec = llama.describe(config, llama.Defaults(rotary_share=0.5, eps=1e-5, has_attention_bias=has_bias))
    return _with_sandwich_norms(spec.map_layers(lambda _, layer: dataclasses.replace(layer, has_out_bias=False)))


def _with_sandwich_norms(spec: DecoderSpec) -> DecoderSpec:
    return spec.map_layers(lambda _, layer: dataclasses.replace(layer, placement=NormPlacement.SANDWICH))


NAMES = {
    **phi3.NAMES,
    "model.layers.{i}.self_attn.q_proj.*": To("layers.{i}.attn.qkv", "q", unpermute_q),
    "model.layers.{i}.self_attn.k_proj.*": To("layers.{i}.attn.qkv", "k", unpermute_k),
    "model.layers.{i}.self_attn.v_proj.*": To("layers.{i}.attn.qkv", "v"),
}

SANDWICH_NAMES = {
    **NAMES,
    "model.layers.{i}.post_self_attn_layernorm.*": To("layers.{i}.attn_post_norm"),
    "model.layers.{i}.post_mlp_layernorm.*": To("layers.{i}.mlp_post_norm"),
}

GGUF_NAMES = {
    **llama.GGUF_NAMES,  # neighboring rotary pairs, as in Llama's files
    "blk.{i}.ffn_up.*": To("layers.{i}.mlp.gate_up"),  # gate and up in one tensor
    "blk.{i}.post_attention_norm.*": To("layers.{i}.attn_post_norm"),
    "blk.{i}.post_ffw_norm.*": To("layers.{i}.mlp_post_norm"),
}

# Files of a model whose pairs have three axes keep the halves of heads apart.
GGUF_NAMES_OF_AXES = {
    "blk.{x}.**": IGNORE,  # GLM-OCR's multi-token prediction
    **GGUF_NAMES,
    "blk.{i}.attn_q.*": To("layers.{i}.attn.qkv", "q"),
    "blk.{i}.attn_k.*": To("layers.{i}.attn.qkv", "k"),
}

GLM = Family(describe, NAMES, GGUF_NAMES)
GLM4 = Family(describe_sandwich, SANDWICH_NAMES, GGUF_NAMES)
GLM4V = Family(describe_vision, SANDWICH_NAMES, GGUF_NAMES_OF_AXES)
OCR = Family(describe_ocr, {"model.layers.{x}.**": IGNORE, **SANDWICH_NAMES}, GGUF_NAMES_OF_AXES)
