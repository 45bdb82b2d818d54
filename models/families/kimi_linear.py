"""Kimi Linear: the delta rule with a decay per key channel in most layers, latent attention without rotary embedding in
others, and DeepSeek V3's experts."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from models.architecture.decoder import DecoderSpec
from models.architecture.layer import LayerSpec
from models.architecture.recurrence import GatedDeltaSpec
from models.checkpoints.gguf.fields import layer_counts
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.layers import listed_kinds
from models.errors import CheckpointError, UnsupportedModelError
from models.families import deepseek
from models.families.delta_rule import GGUF_DELTA_NAMES, delta_names
from models.families.experts import expert_names, shared_names
from models.families.name_map import To
from models.families.registry import Family

_DEFAULTS = {
    **deepseek.V3_DEFAULTS,
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 2.446,
    "first_k_dense_replace": 1,
    "rms_norm_eps": 1e-5,
}
# DeepSeek's name of a field -> the family's
_FIELDS = {
    "n_routed_experts": "num_experts",
    "n_shared_experts": "num_shared_experts",
    "num_experts_per_tok": "num_experts_per_token",
    "n_group": "num_expert_group",
    "norm_topk_prob": "moe_renormalize",
    "max_position_embeddings": "model_max_length",
}
KINDS = ("linear_attention", "full_attention")


def describe(config: HFConfig) -> DecoderSpec:
    _check(config)
    config = with_deepseek_names(config, 1048576)
    linear = config.section("linear_attn_config")
    spec = deepseek.describe(config, _DEFAULTS)

    def size(published: str, name: str, default: int, **bounds: int) -> int:
        """Return a size by its published name in `linear_attn_config`, or by transformers' own."""
        has_published = linear.has(published)
        return linear.integer(published, **bounds) if has_published else config.integer(name, default, **bounds)

    head_dim = size("head_dim", "linear_head_dim", 128)
    kernel_size = size("short_conv_kernel_size", "linear_conv_kernel_dim", 4, minimum=2, maximum=8)
    delta = channel_delta(spec, size("num_heads", "linear_num_heads", 32), head_dim, kernel_size)
    delta = dataclasses.replace(delta, gate_rank=head_dim)
    kinds = _kinds(config, linear, len(spec.layers))
    return with_delta(spec.map_layers(lambda _, layer: dataclasses.replace(layer, rope=None)), delta, kinds)


def with_deepseek_names(config: HFConfig, max_position: int) -> HFConfig:
    """Return `config` with DeepSeek's names of fields, where it has only the family's. max_position: the default."""
    fields = {"max_position_embeddings": max_position}
    fields |= {name: config.raw(own) for name, own in _FIELDS.items() if config.has(own)}
    spelled = {name: own for name, own in _FIELDS.items() if config.has(own)}
    return dataclasses.replace(config, fields={**fields, **config.fields}, spelled=spelled)


def channel_delta(spec: DecoderSpec, num_heads: int, head_dim: int, kernel_size: int) -> GatedDeltaSpec:
    """Return the delta rule with a decay per key channel."""
    return GatedDeltaSpec(
        num_key_heads=num_heads,
        num_value_heads=num_heads,
        key_dim=head_dim,
        value_dim=head_dim,
        kernel_size=kernel_size,
        norm=spec.layers[0].norm,
        has_own_qkv=True,
        has_channel_decay=True,
        has_sigmoid_gate=True,
    )


def with_delta(spec: DecoderSpec, delta: GatedDeltaSpec, kinds: Sequence[str]) -> DecoderSpec:
    """Return `spec` with the delta rule in place of attention in layers of the kind "linear_attention"."""

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        if kinds[index] == KINDS[0]:
            return dataclasses.replace(layer, mixer=delta, latent=None, rope=None, has_output_gate=False)
        return layer

    return spec.map_layers(adapt)


def _check(config: HFConfig) -> None:
    if not config.boolean("mla_use_nope", True):
        raise UnsupportedModelError(f"{config.source}: mla_use_nope false (rotary embeddings) is not supported")
    if (score := config.text("moe_router_activation_func", "sigmoid")) != "sigmoid":
        raise UnsupportedModelError(
            f"{config.source}: moe_router_activation_func {score!r} is not supported; supported is 'sigmoid'"
        )


def _kinds(config: HFConfig, linear: HFConfig, count: int) -> list[str]:
    """Return each layer's kind, by `layer_types` or by the numbers of layers in `linear_attn_config`, from 1 on."""
    if config.has("layer_types"):
        return listed_kinds(config, "layer_types", count, dict(zip(KINDS, KINDS, strict=True)))
    delta, full = linear.raw("kda_layers"), linear.raw("full_attn_layers")
    if delta is None or full is None:
        return [KINDS[index > 0 and index % 4 == 0] for index in range(count)]
    listed = [*delta, *full] if isinstance(delta, list) and isinstance(full, list) else []
    if len(listed) != count or any(number not in listed for number in range(1, count + 1)):
        raise CheckpointError(
            f"{linear.source}: kda_layers and full_attn_layers must list the layers 1 to {count} once each; "
            f"{config.remedy}"
        )
    return [KINDS[number in full] for number in range(1, count + 1)]


def queries(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    """Order the queries of latent attention as deepseek.rotary_first_q does; the delta rule's are unchanged."""
    assert layer is not None
    return tensor if layer.latent is None else deepseek.rotary_first_q(tensor, layer)


_Q = To("layers.{i}.attn.qkv", "q", queries, otherwise="layers.{i}.attn.in_proj")
_MOE = "block_sparse_moe"
NAMES = {
    **expert_names(_MOE, gate="w1", up="w3", down="w2"),
    **shared_names(_MOE, name="shared_experts"),
    f"model.layers.{{i}}.{_MOE}.gate.weight": To("layers.{i}.mlp.router"),
    f"model.layers.{{i}}.{_MOE}.gate.e_score_correction_bias": To("layers.{i}.mlp.router", parameter="correction"),
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
    fields = {"expert_weights_norm": True, **file.fields, "attention.head_count_kv": max(counts) or None}
    return {
        **deepseek.gguf_fields(dataclasses.replace(file, fields=fields)),
        "layer_types": [KINDS[count > 0] for count in counts],
        "linear_num_heads": file.integer("attention.head_count"),
        "linear_head_dim": file.integer("kda.head_dim"),
        "linear_conv_kernel_dim": file.integer("ssm.conv_kernel"),
    }


FAMILY = Family(describe, NAMES, GGUF_NAMES, gguf_fields)
