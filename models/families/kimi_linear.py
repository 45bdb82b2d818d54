"""Kimi Linear: the delta rule with a decay per key channel in most layers, latent attention without rotary embedding in
others, and DeepSeek V3's experts."""

import dataclasses
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.checkpoints.gguf.fields import layer_counts, with_largest
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.layers import kinds_of_layers
from models.errors import CheckpointError, UnsupportedModelError
from models.families import deepseek, routed_experts
from models.families.delta_rule import GGUF_DELTA_NAMES, KINDS, channel_delta, delta_names, with_delta
from models.families.name_map import To
from models.families.registry import Family
from models.families.transforms import rotary_first_q

_DEFAULTS = {
    **routed_experts.UNGROUPED_DEFAULTS,
    "routed_scaling_factor": 2.446,
    "rms_norm_eps": 1e-5,
}
# DeepSeek's name of a field -> the family's
FIELDS = {
    "n_routed_experts": "num_experts",
    "n_shared_experts": "num_shared_experts",
    "num_experts_per_tok": "num_experts_per_token",
    "n_group": "num_expert_group",
    "norm_topk_prob": "moe_renormalize",
    "max_position_embeddings": "model_max_length",
}
# transformers' name of a field -> as it is published
_LINEAR_FIELDS = {
    "linear_head_dim": "linear_attn_config.head_dim",
    "linear_num_heads": "linear_attn_config.num_heads",
    "linear_conv_kernel_dim": "linear_attn_config.short_conv_kernel_size",
}


def describe(config: HFConfig) -> DecoderSpec:
    _check(config)
    config = config.with_defaults({"max_position_embeddings": 1048576}).renamed({**FIELDS, **_LINEAR_FIELDS})
    spec = deepseek.describe(config, _DEFAULTS).map_layers(lambda _, layer: dataclasses.replace(layer, rope=None))
    head_dim = config.integer("linear_head_dim", 128)
    kernel_size = config.integer("linear_conv_kernel_dim", 4, minimum=2, maximum=8)
    delta = channel_delta(spec, config.integer("linear_num_heads", 32), head_dim, kernel_size)
    return with_delta(spec, dataclasses.replace(delta, gate_rank=head_dim), _kinds(config, len(spec.layers)))


def _check(config: HFConfig) -> None:
    if not config.boolean("mla_use_nope", True):
        raise UnsupportedModelError(f"{config.source}: mla_use_nope false (rotary embeddings) is not supported")
    if (score := config.text("moe_router_activation_func", "sigmoid")) != "sigmoid":
        raise UnsupportedModelError(
            f"{config.source}: moe_router_activation_func {score!r} is not supported; supported is 'sigmoid'"
        )


def _kinds(config: HFConfig, count: int) -> list[str]:
    """Return each layer's kind, by `layer_types` or by the numbers of layers in `linear_attn_config`, from 1 on."""
    linear = config.section("linear_attn_config")
    delta, full = linear.raw("kda_layers"), linear.raw("full_attn_layers")
    if config.has("layer_types") or delta is None or full is None:
        return kinds_of_layers(config, count, KINDS, lambda index: KINDS[index > 0 and index % 4 == 0])
    listed = [*delta, *full] if isinstance(delta, list) and isinstance(full, list) else []
    if len(listed) != count or any(number not in listed for number in range(1, count + 1)):
        raise CheckpointError(
            f"{linear.source}: kda_layers and full_attn_layers must list the layers 1 to {count} once each; "
            f"{config.remedy}"
        )
    return [KINDS[number in full] for number in range(1, count + 1)]


_Q = To("layers.{i}.attn.qkv", "q", rotary_first_q, otherwise="layers.{i}.attn.in_proj")
_MOE = "block_sparse_moe"
NAMES = {
    **routed_experts.names_in(_MOE, gate="w1", up="w3", down="w2"),
    # transformers saves dense layers under the name of experts.
    f"model.layers.{{i}}.{_MOE}.gate_proj.*": To("layers.{i}.mlp.gate_up", "gate"),
    f"model.layers.{{i}}.{_MOE}.up_proj.*": To("layers.{i}.mlp.gate_up", "up"),
    f"model.layers.{{i}}.{_MOE}.down_proj.*": To("layers.{i}.mlp.down"),
    **deepseek.NAMES,  # adapters have transformers' names
    **delta_names("self_attn", z="g_a_proj", a="f_a_proj"),
    "model.layers.{i}.self_attn.q_proj.*": _Q,
    "model.layers.{i}.self_attn.g_b_proj.*": To("layers.{i}.attn.z_up"),
    "model.layers.{i}.self_attn.f_b_proj.*": To("layers.{i}.attn.a_up"),
    "model.layers.{i}.self_attn.forget_gate.f_a_proj.*": To("layers.{i}.attn.in_proj", "a"),
    "model.layers.{i}.self_attn.forget_gate.f_b_proj.*": To("layers.{i}.attn.a_up"),
}

GGUF_NAMES = {**deepseek.GGUF_NAMES, **GGUF_DELTA_NAMES, "blk.{i}.attn_q.*": _Q}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    """Return the fields of config.json. Layers without key heads have the delta rule."""
    counts = layer_counts(file, "attention.head_count_kv")
    # Files do not say that the weights of experts are normed.
    normed = file.with_defaults({"expert_weights_norm": True})
    return {
        **deepseek.gguf_fields(with_largest(normed, "attention.head_count_kv")),
        "layer_types": [KINDS[count > 0] for count in counts],
        "linear_num_heads": file.integer("attention.head_count"),
        "linear_head_dim": file.integer("kda.head_dim"),
        "linear_conv_kernel_dim": file.integer("ssm.conv_kernel"),
    }


FAMILY = Family(describe, NAMES, GGUF_NAMES, gguf_fields)
