"""Qwen3-Next and the text part of Qwen3.5: gated delta rule in most layers, gated attention in every fourth.

Longer than a page because the delta rule has three forms, with matrices fused and ordered differently in each and in
GGUF.
"""

import dataclasses
from typing import Any

import torch

from models.architecture.attention import QKNormSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.layer import LayerSpec
from models.architecture.recurrence import GatedDeltaSpec
from models.checkpoints.gguf.fields import common_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.layers import kinds_of_layers
from models.errors import CheckpointError
from models.families import llama, qwen3
from models.families.delta_rule import KINDS
from models.families.experts import GGUF_EXPERT_NAMES, gguf_expert_fields
from models.families.name_map import IGNORE, To
from models.families.qwen_moe import EXPERT_NAMES, with_experts
from models.families.registry import Family
from models.families.transforms import concatenate, conv_weight, log_of_rate, plus_one


def describe_moe(config: HFConfig) -> DecoderSpec:
    # If all layers have experts, the size of a dense MLP need not be stated.
    sized = config.with_defaults({"intermediate_size": 1})
    return with_experts(config, describe(sized), has_shared=True, default_renormalizes=True)


def describe(config: HFConfig) -> DecoderSpec:
    spec = llama.describe(config, llama.Defaults(head_dim=256, rotary_share=0.25))
    num_key_heads = config.integer("linear_num_key_heads", 16)
    num_value_heads = config.integer("linear_num_value_heads", 32)
    delta = GatedDeltaSpec(
        num_key_heads=num_key_heads,
        num_value_heads=num_value_heads,
        key_dim=config.integer("linear_key_head_dim", 128),
        value_dim=config.integer("linear_value_head_dim", 128),
        kernel_size=config.integer("linear_conv_kernel_dim", 4, minimum=2, maximum=8),
        norm=spec.layers[0].norm,
        tiles_key_heads=config.boolean("linear_tiles_key_heads", False),
    )
    if num_value_heads % num_key_heads:
        raise CheckpointError(
            f"{config.source}: linear_num_key_heads {num_key_heads} does not divide linear_num_value_heads "
            f"{num_value_heads}; fetch the checkpoint's own configuration again"
        )
    interval = config.integer("full_attention_interval", 4)
    kinds = kinds_of_layers(config, len(spec.layers), KINDS, lambda index: KINDS[(index + 1) % interval == 0])

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        if kinds[index] == "linear_attention":
            return dataclasses.replace(layer, mixer=delta, rope=None)
        return dataclasses.replace(layer, qk_norm=QKNormSpec(layer.norm), has_output_gate=True)

    return spec.map_layers(adapt)


# --- transforms ------------------------------------------------------------------------------------------------------


def queries(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    """Select the queries among q_proj's rows, in which a head's query is followed by its gate."""
    return _halves(tensor, layer)[:, 0].flatten(0, 1)


def gates(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    return _halves(tensor, layer)[:, 1].flatten(0, 1)


def _halves(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    assert layer is not None
    return tensor.unflatten(0, (layer.attention.num_heads, 2, -1))  # [H, query or gate, D, ...]


def delta_qkv(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    """Select q, k, v from in_proj_qkvz, whose rows are, for each key head, q, k, then v and z of its value heads."""
    return concatenate([part.flatten(0, 1) for part in _of_key_heads(tensor, layer)[:3]])


def delta_z(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    return _of_key_heads(tensor, layer)[3].flatten(0, 1)


def delta_b(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    """Select b from in_proj_ba, whose rows are, for each key head, b and then a of its value heads."""
    return tensor.unflatten(0, (_delta(layer).num_key_heads, 2, -1))[:, 0].flatten(0, 1)


def delta_a(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    return tensor.unflatten(0, (_delta(layer).num_key_heads, 2, -1))[:, 1].flatten(0, 1)


def _of_key_heads(tensor: torch.Tensor, layer: LayerSpec | None) -> tuple[torch.Tensor, ...]:
    """Split rows into q, k, v and z, each [key heads, rows, ...]."""
    delta = _delta(layer)
    values = delta.value_size // delta.num_key_heads
    heads = tensor.unflatten(0, (delta.num_key_heads, -1))
    return heads.split_with_sizes([delta.key_dim, delta.key_dim, values, values], dim=1)


def _delta(layer: LayerSpec | None) -> GatedDeltaSpec:
    assert layer is not None
    assert isinstance(layer.recurrence, GatedDeltaSpec)
    return layer.recurrence


# --- names -----------------------------------------------------------------------------------------------------------

_NAMES = {
    "mtp.**": IGNORE,  # multi-token prediction
    **qwen3.NAMES,
    "model.layers.{i}.input_layernorm.*": To("layers.{i}.attn_norm", transform=plus_one),
    "model.layers.{i}.post_attention_layernorm.*": To("layers.{i}.mlp_norm", transform=plus_one),
    "model.norm.*": To("norm", transform=plus_one),
    "model.layers.{i}.self_attn.q_norm.*": To("layers.{i}.attn.q_norm", transform=plus_one),
    "model.layers.{i}.self_attn.k_norm.*": To("layers.{i}.attn.k_norm", transform=plus_one),
    "model.layers.{i}.self_attn.q_proj.*": (
        To("layers.{i}.attn.qkv", "q", queries),
        To("layers.{i}.attn.qkv", "gate", gates),
    ),
    "model.layers.{i}.linear_attn.conv1d.weight": To("layers.{i}.attn.conv", None, conv_weight),
    "model.layers.{i}.linear_attn.A_log": To("layers.{i}.attn", parameter="A_log"),
    "model.layers.{i}.linear_attn.dt_bias": To("layers.{i}.attn", parameter="dt_bias"),
    "model.layers.{i}.linear_attn.norm.*": To("layers.{i}.attn.norm"),
    "model.layers.{i}.linear_attn.out_proj.*": To("layers.{i}.attn.out", when_present="layers.{i}.attn.in_proj"),
}

_NEXT_NAMES = {
    "model.layers.{i}.linear_attn.in_proj_qkvz.*": (
        To("layers.{i}.attn.in_proj", "qkv", delta_qkv),
        To("layers.{i}.attn.in_proj", "z", delta_z),
    ),
    "model.layers.{i}.linear_attn.in_proj_ba.*": (
        To("layers.{i}.attn.in_proj", "b", delta_b),
        To("layers.{i}.attn.in_proj", "a", delta_a),
    ),
}

_QWEN35_NAMES = {
    f"model.layers.{{i}}.linear_attn.in_proj_{part}.*": To("layers.{i}.attn.in_proj", part)
    for part in ("qkv", "z", "b", "a")
}

# --- GGUF ------------------------------------------------------------------------------------------------------------

_GGUF_NAMES = {
    "blk.{x}.**": IGNORE,  # multi-token prediction
    **qwen3.GGUF_NAMES,
    "blk.{i}.post_attention_norm.*": To("layers.{i}.mlp_norm"),
    "blk.{i}.attn_q.*": _NAMES["model.layers.{i}.self_attn.q_proj.*"],
    "blk.{i}.attn_qkv.*": To("layers.{i}.attn.in_proj", "qkv"),
    "blk.{i}.attn_gate.*": To("layers.{i}.attn.in_proj", "z"),
    "blk.{i}.ssm_in.*": _NEXT_NAMES["model.layers.{i}.linear_attn.in_proj_qkvz.*"],  # early files
    "blk.{i}.ssm_ba.*": _NEXT_NAMES["model.layers.{i}.linear_attn.in_proj_ba.*"],
    "blk.{i}.ssm_beta.*": To("layers.{i}.attn.in_proj", "b"),
    "blk.{i}.ssm_alpha.*": To("layers.{i}.attn.in_proj", "a"),
    "blk.{i}.ssm_conv1d.weight": To("layers.{i}.attn.conv", None, conv_weight),
    "blk.{i}.ssm_a": To("layers.{i}.attn", None, log_of_rate, "A_log"),
    "blk.{i}.ssm_dt.bias": To("layers.{i}.attn", parameter="dt_bias"),
    "blk.{i}.ssm_norm.*": To("layers.{i}.attn.norm"),
    "blk.{i}.ssm_out.*": To("layers.{i}.attn.out"),
}
_GGUF_MOE_NAMES = {**_GGUF_NAMES, **GGUF_EXPERT_NAMES}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    num_value_heads = file.integer("ssm.time_step_rank")
    return {
        **common_fields(file),
        "full_attention_interval": file.integer("full_attention_interval", 4),
        "linear_num_key_heads": file.integer("ssm.group_count"),
        "linear_num_value_heads": num_value_heads,
        "linear_key_head_dim": file.integer("ssm.state_size"),
        "linear_value_head_dim": file.integer("ssm.inner_size") // num_value_heads,
        "linear_conv_kernel_dim": file.integer("ssm.conv_kernel"),
    }


def gguf_moe_fields(file: GGUFMetadata) -> dict[str, Any]:
    sized = file.with_defaults({"feed_forward_length": 1})  # as in describe_moe
    shared = file.integer("expert_shared_feed_forward_length")
    return {**gguf_fields(sized), **gguf_expert_fields(sized), "shared_expert_intermediate_size": shared}


def gguf_qwen35_fields(file: GGUFMetadata) -> dict[str, Any]:
    return {**gguf_fields(file), "linear_tiles_key_heads": True}


def gguf_qwen35_moe_fields(file: GGUFMetadata) -> dict[str, Any]:
    return {**gguf_moe_fields(file), "linear_tiles_key_heads": True}


NEXT = Family(describe_moe, {**_NAMES, **_NEXT_NAMES, **EXPERT_NAMES}, _GGUF_MOE_NAMES, gguf_moe_fields)
QWEN35 = Family(describe, {**_NAMES, **_QWEN35_NAMES}, _GGUF_NAMES, gguf_qwen35_fields)
QWEN35_MOE = Family(describe_moe, {**_NAMES, **_QWEN35_NAMES, **EXPERT_NAMES}, _GGUF_MOE_NAMES, gguf_qwen35_moe_fields)
