"""Jamba: selective scans in most layers, attention without positions in the others, experts in every second."""

import dataclasses
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import MLPSpec, MoESpec, RouterScore, RouterSpec
from models.architecture.layer import LayerSpec
from models.architecture.recurrence import SelectiveScanSpec
from models.checkpoints.gguf.fields import common_fields, layer_counts, with_largest
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.layers import listed_kinds
from models.errors import CheckpointError
from models.families import llama, qwen3
from models.families.experts import GGUF_EXPERT_NAMES, expert_names, gguf_expert_fields
from models.families.name_map import To
from models.families.registry import Family
from models.families.state_spaces import gguf_scan_names, kernel_size, scan_names, step_rank


def describe(config: HFConfig) -> DecoderSpec:
    spec = llama.describe(config, llama.Defaults(activation="silu"))
    count = len(spec.layers)
    is_attention = _marked_layers(config, count, "attn_layer", period=8, offset=4)
    has_experts = _marked_layers(config, count, "expert_layer", period=2, offset=1)
    num_experts = config.integer("num_experts", 16)
    router = RouterSpec(RouterScore.SOFTMAX, config.integer("num_experts_per_tok", 2), renormalizes=False)
    scan = SelectiveScanSpec(
        num_channels=config.integer("mamba_expand", 2) * spec.hidden_size,
        state_size=config.integer("mamba_d_state", 16),
        step_rank=step_rank(config, "mamba_dt_rank"),
        kernel_size=kernel_size(config, "mamba_d_conv"),
        norm=spec.layers[0].norm,
        has_conv_bias=config.boolean("mamba_conv_bias", True),
        has_bias=config.boolean("mamba_proj_bias", False),
    )

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        assert isinstance(layer.mlp, MLPSpec)
        mlp = MoESpec(num_experts, layer.mlp, router) if has_experts[index] and num_experts > 1 else layer.mlp
        mixer = layer.mixer if is_attention[index] else scan
        return dataclasses.replace(layer, mixer=mixer, mlp=mlp, rope=None)

    return spec.map_layers(adapt)


def _marked_layers(config: HFConfig, count: int, name: str, *, period: int, offset: int) -> list[bool]:
    """Return whether each layer is one of the kind that a period and an offset give, or a list from GGUF."""
    if config.has(f"{name}s"):
        return [kind == "marked" for kind in listed_kinds(config, f"{name}s", count, {"1": "marked", "0": "other"})]
    every, first = config.integer(f"{name}_period", period), config.integer(f"{name}_offset", offset, minimum=0)
    if first >= every:
        raise CheckpointError(
            f"{config.source}: {name}_offset {first} is not below {name}_period {every}; "
            "fetch the checkpoint's own configuration again"
        )
    return [index % every == first for index in range(count)]


_NAMES = {
    **llama.NAMES,
    **scan_names("mamba"),
    **expert_names("feed_forward"),
    "model.final_layernorm.*": To("norm"),
    "model.layers.{i}.pre_ff_layernorm.*": To("layers.{i}.mlp_norm"),
    "model.layers.{i}.feed_forward.router.weight": To("layers.{i}.mlp.router"),
    "model.layers.{i}.feed_forward.gate_proj.*": To("layers.{i}.mlp.gate_up", "gate"),
    "model.layers.{i}.feed_forward.up_proj.*": To("layers.{i}.mlp.gate_up", "up"),
    "model.layers.{i}.feed_forward.down_proj.*": To("layers.{i}.mlp.down"),
}

_GGUF_NAMES = {
    **qwen3.GGUF_NAMES,
    **gguf_scan_names(),
    **GGUF_EXPERT_NAMES,
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    """Return the fields of config.json. Layers without key heads have a scan, those with a router have experts."""
    counts = layer_counts(file, "attention.head_count_kv")
    inner_size, hidden_size = file.integer("ssm.inner_size"), file.integer("embedding_length")
    routed = [f"blk.{index}.ffn_gate_inp.weight" in file.tensors for index in range(len(counts))]
    return {
        **common_fields(with_largest(file, "attention.head_count_kv")),
        **gguf_expert_fields(file, size="intermediate_size"),
        "attn_layers": ["1" if count else "0" for count in counts],
        "expert_layers": ["1" if is_routed else "0" for is_routed in routed],
        "mamba_expand": max(1, inner_size // hidden_size),
        "mamba_d_state": file.integer("ssm.state_size"),
        "mamba_d_conv": file.integer("ssm.conv_kernel"),
        "mamba_dt_rank": file.integer("ssm.time_step_rank"),
        "mamba_conv_bias": any(name.endswith("ssm_conv1d.bias") for name in file.tensors),
        "mamba_proj_bias": any(name.endswith("ssm_in.bias") for name in file.tensors),
    }


FAMILY = Family(describe, _NAMES, _GGUF_NAMES, gguf_fields)
