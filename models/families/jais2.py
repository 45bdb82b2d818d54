"""Jais 2: Llama with LayerNorm, biases everywhere, and a plain MLP with squared ReLU."""

import dataclasses
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.architecture.layer import LayerSpec
from models.architecture.norm import NormKind, NormSpec
from models.checkpoints.gguf.fields import common_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.families import llama, starcoder2
from models.families.name_map import To
from models.families.registry import Family


def describe(config: HFConfig) -> DecoderSpec:
    norm = NormSpec(NormKind.LAYER, config.number("layer_norm_eps", 1e-5), has_bias=True)
    biases = {name: config.boolean(name, True) for name in ("attention_bias", "mlp_bias")}
    config = config.with_fields(biases)
    spec = llama.describe(config, llama.Defaults(activation="relu2"))

    def adapt(_: int, layer: LayerSpec) -> LayerSpec:
        return dataclasses.replace(layer, norm=norm, mlp=dataclasses.replace(layer.dense_mlp, is_gated=False))

    return dataclasses.replace(spec.map_layers(adapt), final_norm=norm)


NAMES = {**llama.NAMES, "model.layers.{i}.mlp.up_proj.*": To("layers.{i}.mlp.up")}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    return {**common_fields(file), "hidden_act": "relu2"}


FAMILY = Family(describe, NAMES, starcoder2.GGUF_NAMES, gguf_fields)
