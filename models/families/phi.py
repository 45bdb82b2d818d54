"""Phi 1, 1.5 and 2: attention and MLP in parallel after one LayerNorm, partial rotary embedding, biases everywhere."""

import dataclasses
from typing import Any

from models.architecture.attention import QKNormSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.layer import LayerSpec, NormPlacement
from models.architecture.norm import NormKind, NormSpec
from models.checkpoints.gguf.fields import common_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.families import gpt_neox, llama
from models.families.name_map import To
from models.families.registry import Family


def describe(config: HFConfig) -> DecoderSpec:
    norm = NormSpec(NormKind.LAYER, config.number("layer_norm_eps", 1e-5), has_bias=True)
    qk_norm = QKNormSpec(norm) if config.boolean("qk_layernorm", False) else None
    defaults = llama.Defaults(rotary_share=0.5, has_attention_bias=True, activation="gelu_new")

    def adapt(_: int, layer: LayerSpec) -> LayerSpec:
        mlp = dataclasses.replace(layer.dense_mlp, is_gated=False, has_up_bias=True, has_down_bias=True)
        return dataclasses.replace(
            layer, norm=norm, placement=NormPlacement.PARALLEL_ONE_NORM, qk_norm=qk_norm, mlp=mlp
        )

    spec = llama.describe(config, defaults).map_layers(adapt)
    return dataclasses.replace(spec, final_norm=norm, has_head_bias=True)


NAMES = {
    **llama.NAMES,
    "model.layers.{i}.self_attn.dense.*": To("layers.{i}.attn.out"),
    "model.layers.{i}.self_attn.q_layernorm.*": To("layers.{i}.attn.q_norm"),
    "model.layers.{i}.self_attn.k_layernorm.*": To("layers.{i}.attn.k_norm"),
    "model.layers.{i}.mlp.fc1.*": To("layers.{i}.mlp.up"),
    "model.layers.{i}.mlp.fc2.*": To("layers.{i}.mlp.down"),
    "model.final_layernorm.*": To("norm"),
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    return {**common_fields(file), "attention_bias": True, "hidden_act": "gelu_new"}


FAMILY = Family(describe, NAMES, gpt_neox.GGUF_NAMES, gguf_fields)
