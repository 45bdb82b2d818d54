"""StarCoder 2: LayerNorm, rotary positions, grouped-query attention, sliding window, plain MLP, biases everywhere."""

import dataclasses
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.architecture.layer import LayerSpec
from models.architecture.norm import NormKind, NormSpec
from models.checkpoints.gguf.fields import common_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.layers import sliding_windows
from models.families import llama, qwen2
from models.families.name_map import To
from models.families.registry import Family


def describe(config: HFConfig) -> DecoderSpec:
    norm = NormSpec(NormKind.LAYER, config.number("norm_epsilon", 1e-5), has_bias=True)
    has_bias = config.boolean("use_bias", True)
    spec = llama.describe(config, llama.Defaults(has_tied_head=True, activation="gelu_pytorch_tanh"))
    windows = sliding_windows(config, len(spec.layers), is_windowed=lambda _: True)

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        mlp = dataclasses.replace(layer.dense_mlp, is_gated=False, has_up_bias=has_bias, has_down_bias=has_bias)
        layer = dataclasses.replace(layer, norm=norm, mlp=mlp, has_qkv_bias=has_bias, has_out_bias=has_bias)
        return layer.with_window(windows[index])

    return dataclasses.replace(spec.map_layers(adapt), final_norm=norm)


NAMES = {
    **llama.NAMES,
    "model.layers.{i}.mlp.c_fc.*": To("layers.{i}.mlp.up"),
    "model.layers.{i}.mlp.c_proj.*": To("layers.{i}.mlp.down"),
}

GGUF_NAMES = {**qwen2.GGUF_NAMES, "blk.{i}.ffn_up.*": To("layers.{i}.mlp.up")}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    fields = common_fields(file)
    return {**fields, "hidden_act": "gelu_pytorch_tanh", "use_bias": fields["attention_bias"]}


FAMILY = Family(describe, NAMES, GGUF_NAMES, gguf_fields)
