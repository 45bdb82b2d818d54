"""Ling 3: the delta rule with a bounded decay per key channel, latent attention with a gate per head, and DeepSeek V3's
experts."""

import dataclasses

from models.architecture.decoder import DecoderSpec
from models.config.hf_config import MAX_NUMBER, HFConfig
from models.config.layers import kinds_of_layers
from models.errors import CheckpointError, UnsupportedModelError
from models.families import deepseek, kimi_linear, routed_experts
from models.families.delta_rule import KINDS, channel_delta, delta_names, with_delta
from models.families.name_map import To
from models.families.registry import Family
from models.families.transforms import rotary_first_q

_LIMITS = ("expert_swiglu_limit_list", "share_expert_swiglu_limit_list")
_DEFAULTS = {**routed_experts.V3_DEFAULTS, "first_k_dense_replace": 2}


def describe(config: HFConfig) -> DecoderSpec:
    if limited := [name for name in _LIMITS if any(_values(config.raw(name)))]:
        raise UnsupportedModelError(f"{config.source}: {limited[0]} is not supported; experts are not bounded here")
    config = config.with_defaults({"max_position_embeddings": 262144}).renamed(kimi_linear.FIELDS)
    # Stated of another size than that of the rotary part, which rotates as a whole.
    config = config.with_fields({"partial_rotary_factor": None})
    spec = deepseek.describe(config, _DEFAULTS, rope_theta=6e6)
    kernel_size = config.integer("short_conv_kernel_size", 4, minimum=2, maximum=8)
    # As head_dim, transformers saves the size of latent attention's rotary part.
    head_dim = config.integer("linear_head_dim", config.integer("head_dim"))
    delta = channel_delta(spec, config.integer("num_attention_heads"), head_dim, kernel_size)
    bound = config.number("kda_lower_bound", -5.0, minimum=-MAX_NUMBER)
    if bound >= 0:
        raise CheckpointError(f"{config.source}: kda_lower_bound is {bound}; it must be below 0; {config.remedy}")
    if config.boolean("kda_safe_gate", True):
        delta = dataclasses.replace(delta, min_log_decay=bound)
    gated = spec.map_layers(lambda _, layer: dataclasses.replace(layer, has_output_gate=True))
    interval = config.integer("layer_group_size", 6)
    kinds = kinds_of_layers(config, len(spec.layers), KINDS, lambda index: KINDS[(index + 1) % interval == 0])
    return with_delta(gated, delta, kinds)


def _values(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _names(block: str, decay: str) -> dict[str, To | tuple[To, ...] | None]:
    names = f"model.layers.{{i}}.{block}"
    delta = "layers.{i}.attn.in_proj"
    return {
        **{name.replace(".self_attn.", f".{block}."): to for name, to in deepseek.NAMES.items()},
        **delta_names(block, z="g_proj", a=decay),
        f"{names}.q_proj.*": To("layers.{i}.attn.qkv", "q", rotary_first_q, otherwise=delta),
        f"{names}.g_proj.*": To("layers.{i}.attn.qkv", "gate", otherwise=delta, otherwise_shard="z"),
    }


NAMES = {
    **_names("attention", "f_proj"),
    "model.word_embeddings.*": To("embed"),
    "model.layers.{i}.attention.dense.*": To("layers.{i}.attn.out"),
    "model.layers.{i}.mlp.gate.expert_bias": To("layers.{i}.mlp.router", parameter="correction"),
    **_names("self_attn", "forget_gate.f_proj"),  # transformers' names, which adapters have
}

FAMILY = Family(describe, NAMES)
