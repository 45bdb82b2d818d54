"""gpt-oss: attention sinks, a window in every other layer, experts with a clamped SwiGLU and biases everywhere."""

import dataclasses
from typing import Any

import torch

from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import Activation, MLPSpec, MoESpec, RouterScore, RouterSpec, SwigluClamp
from models.architecture.layer import LayerSpec
from models.checkpoints.gguf.fields import common_fields, window_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.layers import sliding_windows
from models.config.rope import with_default_rope
from models.families import llama, qwen2
from models.families.experts import GGUF_EXPERT_NAMES, gguf_expert_fields
from models.families.name_map import To
from models.families.registry import Family
from models.families.transforms import concatenate, transpose

_ROPE = {"rope_type": "yarn", "factor": 32.0, "truncate": False, "original_max_position_embeddings": 4096}


def describe(config: HFConfig) -> DecoderSpec:
    config = with_default_rope(config, _ROPE)
    spec = llama.describe(config, llama.Defaults(head_dim=64, rope_theta=150000.0, eps=1e-5))
    windows = sliding_windows(config, len(spec.layers), is_windowed=lambda index: index % 2 == 0, default=128)
    expert = MLPSpec(
        intermediate_size=config.integer("intermediate_size"),
        activation=Activation.SILU,
        is_gated=True,
        has_up_bias=True,
        has_down_bias=True,
        clamp=SwigluClamp(alpha=config.number("swiglu_alpha", 1.702), limit=config.number("swiglu_limit", 7.0)),
    )
    router = RouterSpec(
        score=RouterScore.SOFTMAX,
        experts_per_token=config.integer("num_experts_per_tok", 4),
        renormalizes=True,  # the softmax is over the chosen experts
        has_bias=True,
    )
    moe = MoESpec(config.integer("num_local_experts"), expert, router)
    has_bias = config.boolean("attention_bias", True)

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        attention = dataclasses.replace(layer.attention, sliding_window=windows[index], has_sinks=True)
        return dataclasses.replace(layer, mixer=attention, mlp=moe, has_qkv_bias=has_bias, has_out_bias=has_bias)

    return spec.map_layers(adapt)


def split_gate_up(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:  # noqa: ARG001
    """Move alternating rows of gate and up to all of gate, then all of up, in weights and biases."""
    return concatenate((tensor[0::2], tensor[1::2]))


def transpose_and_split_gate_up(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    """Transpose an expert's [hidden, 2 * intermediate] of unquantized checkpoints, then `split_gate_up`."""
    return split_gate_up(tensor.t(), layer)


NAMES = {
    **llama.NAMES,
    "model.layers.{i}.self_attn.sinks": To("layers.{i}.attn", parameter="sinks"),
    "model.layers.{i}.mlp.router.*": To("layers.{i}.mlp.router"),
    "model.layers.{i}.mlp.experts.gate_up_proj": To(
        "layers.{i}.mlp.experts.{e}.gate_up", transform=transpose_and_split_gate_up
    ),
    "model.layers.{i}.mlp.experts.gate_up_proj_bias": To(
        "layers.{i}.mlp.experts.{e}.gate_up", transform=split_gate_up, parameter="bias"
    ),
    "model.layers.{i}.mlp.experts.down_proj": To("layers.{i}.mlp.experts.{e}.down", transform=transpose),
    "model.layers.{i}.mlp.experts.down_proj_bias": To("layers.{i}.mlp.experts.{e}.down", parameter="bias"),
    # MXFP4, which the reader provides as matrices [outputs, inputs]
    "model.layers.{i}.mlp.experts.gate_up_proj.weight": To(
        "layers.{i}.mlp.experts.{e}.gate_up", transform=split_gate_up
    ),
    "model.layers.{i}.mlp.experts.down_proj.weight": To("layers.{i}.mlp.experts.{e}.down"),
}

GGUF_NAMES = {
    **qwen2.GGUF_NAMES,
    **GGUF_EXPERT_NAMES,
    "blk.{i}.post_attention_norm.*": To("layers.{i}.mlp_norm"),  # the converter's name
    "blk.{i}.attn_sinks.weight": To("layers.{i}.attn", parameter="sinks"),
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    fields = {**common_fields(file), **window_fields(file), **gguf_expert_fields(file, size="intermediate_size")}
    # yarn's band between fast and slow frequencies is not rounded; the format cannot state that
    return {**fields, "rope_parameters": {**fields["rope_parameters"], "truncate": False}}


FAMILY = Family(describe, NAMES, GGUF_NAMES, gguf_fields)
