"""Jamba: selective scans in most layers, attention without positions in the others, experts in every second."""

import dataclasses
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import MoESpec, RouterScore, RouterSpec
from models.architecture.layer import LayerSpec
from models.checkpoints.gguf.fields import common_fields, layer_counts, with_largest
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.layers import listed_kinds
from models.errors import CheckpointError
from models.families import llama, qwen3
from models.families.experts import GGUF_EXPERT_NAMES, expert_names, gguf_expert_fields
from models.families.name_map import To
from models.families.registry import Family
from models.families.state_spaces import gguf_scan_fields, gguf_scan_names, mamba_scan, scan_names
from models.families.sublayers import mlp_names


def describe(config: HFConfig) -> DecoderSpec:
    spec = llama.describe(config, llama.Defaults(activation="silu"))
    count = len(spec.layers)
    is_attention = _marked_layers(config, count, "attn_layer", period=8, offset=4)
    has_experts = _marked_layers(config, count, "expert_layer", period=2, offset=1)
    num_experts = config.integer("num_experts", 16)
    router = RouterSpec(RouterScore.SOFTMAX, config.integer("num_experts_per_tok", 2), renormalizes=False)
    scan = mamba_scan(config, spec.layers[0].norm)

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        is_routed = has_experts[index] and num_experts > 1
        mlp = MoESpec(num_experts, layer.dense_mlp, router) if is_routed else layer.mlp
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


# Llama's attention, and an MLP under other names, as Bamba and Falcon-H1 have them, too
DENSE_NAMES = {
    **llama.NAMES,
    **mlp_names("feed_forward"),
    "model.layers.{i}.pre_ff_layernorm.*": To("layers.{i}.mlp_norm"),
    "model.final_layernorm.*": To("norm"),
}
_NAMES = {
    **DENSE_NAMES,
    **scan_names("mamba"),
    **expert_names("feed_forward"),
    "model.layers.{i}.feed_forward.router.weight": To("layers.{i}.mlp.router"),
}

_GGUF_NAMES = {**qwen3.GGUF_NAMES, **gguf_scan_names(), **GGUF_EXPERT_NAMES}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    """Return the fields of config.json. Layers without key heads have a scan, those with a router have experts."""
    counts = layer_counts(file, "attention.head_count_kv")
    routed = [f"blk.{index}.ffn_gate_inp.weight" in file.tensors for index in range(len(counts))]
    return {
        **common_fields(with_largest(file, "attention.head_count_kv")),
        **gguf_expert_fields(file, size="intermediate_size"),
        **gguf_scan_fields(file),
        "attn_layers": ["1" if count else "0" for count in counts],
        "expert_layers": ["1" if is_routed else "0" for is_routed in routed],
    }


FAMILY = Family(describe, _NAMES, _GGUF_NAMES, gguf_fields)
