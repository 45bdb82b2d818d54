"""Qwen3-Next: the gated delta rule in most layers, attention with an output gate in every fourth, and experts."""

import dataclasses
from typing import Any

from models.architecture.attention import QKNormSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.layer import LayerSpec
from models.checkpoints.gguf.fields import common_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.layers import kinds_of_layers
from models.families import gemma, llama, qwen3
from models.families.delta_rule import KINDS, head_delta
from models.families.experts import GGUF_EXPERT_NAMES, gguf_expert_fields
from models.families.name_map import IGNORE, To
from models.families.qwen_moe import EXPERT_NAMES, with_experts
from models.families.registry import Family
from models.families.transforms import (
    conv_weight,
    delta_a,
    delta_b,
    delta_qkv,
    delta_z,
    gates,
    log_of_rate,
    plus_one,
    queries,
)


def describe_moe(config: HFConfig) -> DecoderSpec:
    # If all layers have experts, the size of a dense MLP need not be stated.
    sized = config.with_defaults({"intermediate_size": 1})
    return with_experts(config, describe(sized), has_shared=True, default_renormalizes=True)


def describe(config: HFConfig) -> DecoderSpec:
    spec = llama.describe(config, llama.Defaults(head_dim=256, rotary_share=0.25))
    norm = spec.layers[0].norm
    delta = head_delta(config, norm, num_key_heads=16, num_value_heads=32, key_dim=128, value_dim=128)
    delta = dataclasses.replace(delta, tiles_key_heads=config.boolean("linear_tiles_key_heads", False))
    interval = config.integer("full_attention_interval", 4)
    kinds = kinds_of_layers(config, len(spec.layers), KINDS, lambda index: KINDS[(index + 1) % interval == 0])

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        if kinds[index] == "linear_attention":
            return dataclasses.replace(layer, mixer=delta, rope=None)
        return dataclasses.replace(layer, qk_norm=QKNormSpec(layer.norm), has_output_gate=True)

    return spec.map_layers(adapt)


_QUERIES = (To("layers.{i}.attn.qkv", "q", queries), To("layers.{i}.attn.qkv", "gate", gates))
_QKVZ = (To("layers.{i}.attn.in_proj", "qkv", delta_qkv), To("layers.{i}.attn.in_proj", "z", delta_z))
_BA = (To("layers.{i}.attn.in_proj", "b", delta_b), To("layers.{i}.attn.in_proj", "a", delta_a))

# without the matrices of the delta rule, which differ in Qwen3.5
NAMES = {
    "mtp.**": IGNORE,  # multi-token prediction
    **qwen3.NAMES,
    **gemma.SHIFTED_NORMS,
    "model.layers.{i}.self_attn.q_norm.*": To("layers.{i}.attn.q_norm", transform=plus_one),
    "model.layers.{i}.self_attn.k_norm.*": To("layers.{i}.attn.k_norm", transform=plus_one),
    "model.layers.{i}.self_attn.q_proj.*": _QUERIES,
    "model.layers.{i}.linear_attn.conv1d.weight": To("layers.{i}.attn.conv", None, conv_weight),
    "model.layers.{i}.linear_attn.A_log": To("layers.{i}.attn", parameter="A_log"),
    "model.layers.{i}.linear_attn.dt_bias": To("layers.{i}.attn", parameter="dt_bias"),
    "model.layers.{i}.linear_attn.norm.*": To("layers.{i}.attn.norm"),
    "model.layers.{i}.linear_attn.out_proj.*": To("layers.{i}.attn.out", when_present="layers.{i}.attn.in_proj"),
}

GGUF_NAMES = {
    "blk.{x}.**": IGNORE,  # multi-token prediction
    **qwen3.GGUF_NAMES,
    "blk.{i}.post_attention_norm.*": To("layers.{i}.mlp_norm"),
    "blk.{i}.attn_q.*": _QUERIES,
    "blk.{i}.attn_qkv.*": To("layers.{i}.attn.in_proj", "qkv"),
    "blk.{i}.attn_gate.*": To("layers.{i}.attn.in_proj", "z"),
    "blk.{i}.ssm_in.*": _QKVZ,  # early files
    "blk.{i}.ssm_ba.*": _BA,
    "blk.{i}.ssm_beta.*": To("layers.{i}.attn.in_proj", "b"),
    "blk.{i}.ssm_alpha.*": To("layers.{i}.attn.in_proj", "a"),
    "blk.{i}.ssm_conv1d.weight": To("layers.{i}.attn.conv", None, conv_weight),
    "blk.{i}.ssm_a": To("layers.{i}.attn", None, log_of_rate, "A_log"),
    "blk.{i}.ssm_dt.bias": To("layers.{i}.attn", parameter="dt_bias"),
    "blk.{i}.ssm_norm.*": To("layers.{i}.attn.norm"),
    "blk.{i}.ssm_out.*": To("layers.{i}.attn.out"),
}


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


_NAMES = {
    **NAMES,
    "model.layers.{i}.linear_attn.in_proj_qkvz.*": _QKVZ,
    "model.layers.{i}.linear_attn.in_proj_ba.*": _BA,
    **EXPERT_NAMES,
}

FAMILY = Family(describe_moe, _NAMES, {**GGUF_NAMES, **GGUF_EXPERT_NAMES}, gguf_moe_fields)
