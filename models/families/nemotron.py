"""Nemotron 4, Minitron: LayerNorm stored minus 1, half of each head rotated, a plain MLP with squared ReLU."""

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
from models.families.transforms import plus_one


def describe(config: HFConfig) -> DecoderSpec:
    norm = NormSpec(NormKind.LAYER, config.number("norm_eps", 1e-5), has_bias=True)
    spec = llama.describe(config, llama.Defaults(rotary_share=0.5, activation="relu2"))

    def adapt(_: int, layer: LayerSpec) -> LayerSpec:
        return dataclasses.replace(layer, norm=norm, mlp=dataclasses.replace(layer.dense_mlp, is_gated=False))

    return dataclasses.replace(spec.map_layers(adapt), final_norm=norm)


NAMES = {
    # only for weights: biases are stored unchanged
    "model.layers.{i}.input_layernorm.weight": To("layers.{i}.attn_norm", transform=plus_one),
    "model.layers.{i}.post_attention_layernorm.weight": To("layers.{i}.mlp_norm", transform=plus_one),
    "model.norm.weight": To("norm", transform=plus_one),
    **llama.NAMES,
    "model.layers.{i}.mlp.up_proj.*": To("layers.{i}.mlp.up"),
}

GGUF_NAMES = starcoder2.GGUF_NAMES  # the converter adds the 1


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    fields = common_fields(file)
    # The converter takes a share of hidden size / heads, even if the head size is another.
    share = file.integer("rope.dimension_count") * fields["num_attention_heads"] / fields["hidden_size"]
    rope = {**fields["rope_parameters"], "partial_rotary_factor": share}
    return {**fields, "rope_parameters": rope, "norm_eps": fields["norm_epsilon"], "hidden_act": "relu2"}


FAMILY = Family(describe, NAMES, GGUF_NAMES, gguf_fields)
