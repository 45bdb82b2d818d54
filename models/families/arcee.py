"""Arcee (AFM-4.5B): Llama with an MLP without a gate, whose activation is the square of ReLU."""

import dataclasses
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.architecture.layer import LayerSpec
from models.checkpoints.gguf.fields import common_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.families import llama
from models.families.name_map import To
from models.families.registry import Family


def describe(config: HFConfig) -> DecoderSpec:
    def adapt(_: int, layer: LayerSpec) -> LayerSpec:
        return dataclasses.replace(layer, mlp=dataclasses.replace(layer.dense_mlp, is_gated=False))

    return llama.describe(config, llama.Defaults(eps=1e-5, activation="relu2")).map_layers(adapt)


UP_NAMES = {"model.layers.{i}.mlp.up_proj.*": To("layers.{i}.mlp.up")}  # of MLPs without a gate
GGUF_UP_NAMES = {"blk.{i}.ffn_up.*": To("layers.{i}.mlp.up")}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    return {**common_fields(file), "hidden_act": "relu2"}


FAMILY = Family(describe, {**llama.NAMES, **UP_NAMES}, {**llama.GGUF_NAMES, **GGUF_UP_NAMES}, gguf_fields)
