"""Apertus: norms of query and key heads, and an MLP without a gate, whose activation xIELU has learned numbers."""

import dataclasses
from typing import Any

from models.architecture.attention import QKNormSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import Activation
from models.architecture.layer import LayerSpec
from models.checkpoints.gguf.fields import common_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.rope import with_default_rope
from models.families import arcee, llama, qwen3
from models.families.name_map import To
from models.families.registry import Family
from models.families.transforms import as_vector

_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 12000000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 8192,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}


def describe(config: HFConfig) -> DecoderSpec:
    config = with_default_rope(config, _ROPE)
    has_xielu = config.text("hidden_act", "xielu") == "xielu"
    known = {"hidden_act": "silu"} if has_xielu else {}  # xIELU is this family's alone

    def adapt(_: int, layer: LayerSpec) -> LayerSpec:
        activation = Activation.XIELU if has_xielu else layer.dense_mlp.activation
        mlp = dataclasses.replace(layer.dense_mlp, is_gated=False, activation=activation)
        return dataclasses.replace(layer, qk_norm=QKNormSpec(layer.norm), mlp=mlp)

    defaults = llama.Defaults(rope_theta=12000000.0, eps=1e-5)
    return llama.describe(config.with_fields(known), defaults).map_layers(adapt)


_NUMBERS = {
    name: To("layers.{i}.mlp.activation", name, as_vector, "weight") for name in ("alpha_p", "alpha_n", "beta", "eps")
}
NAMES = {
    **qwen3.NAMES,
    **arcee.UP_NAMES,
    "model.layers.{i}.attention_layernorm.*": To("layers.{i}.attn_norm"),
    "model.layers.{i}.feedforward_layernorm.*": To("layers.{i}.mlp_norm"),
    **{f"model.layers.{{i}}.mlp.act_fn.{name}": to for name, to in _NUMBERS.items()},
}
_GGUF_NUMBERS = {f"blk.{{i}}.xielu.{name}": to for name, to in _NUMBERS.items()}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    return {**common_fields(file), "hidden_act": "xielu"}


FAMILY = Family(describe, NAMES, {**qwen3.GGUF_NAMES, **arcee.GGUF_UP_NAMES, **_GGUF_NUMBERS}, gguf_fields)
