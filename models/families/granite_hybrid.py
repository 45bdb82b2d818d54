"""Granite 4: state spaces in most layers, attention without positions in the others.

It has experts beside an MLP for all rows, or that MLP alone, and some of its models have no state space.
"""

import dataclasses
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import MoESpec, RouterScore, RouterSpec
from models.architecture.layer import LayerSpec
from models.checkpoints.gguf.fields import layer_counts, with_largest
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.layers import listed_kinds
from models.families import granite, llama
from models.families.experts import GGUF_EXPERT_NAMES
from models.families.name_map import To
from models.families.registry import Family
from models.families.state_spaces import gguf_space_fields, gguf_space_names, space_names, with_spaces
from models.families.transforms import unpair_k, unpair_q

_KINDS = {"mamba": "space", "linear_attention": "space", "attention": "attention", "full_attention": "attention"}


def describe(config: HFConfig) -> DecoderSpec:
    shared_size = config.integer("shared_intermediate_size", 1024)
    # Without experts, their size need not be stated.
    spec = granite.describe(config.with_defaults({"intermediate_size": shared_size}))
    num_experts = config.integer("num_local_experts", 8, minimum=0)
    router = RouterSpec(RouterScore.SOFTMAX, config.integer("num_experts_per_tok", 2, minimum=0), renormalizes=True)
    has_rope = config.has("position_embedding_type") and config.text("position_embedding_type") == "rope"

    def adapt(_: int, layer: LayerSpec) -> LayerSpec:
        shared = layer.dense_mlp.with_size(shared_size)
        mlp = MoESpec(num_experts, layer.dense_mlp, router, shared) if num_experts else shared
        return dataclasses.replace(layer, mlp=mlp, rope=layer.rope if has_rope else None)

    count = len(spec.layers)
    kinds = listed_kinds(config, "layer_types", count, _KINDS) if config.has("layer_types") else ["space"] * count
    return with_spaces(config, spec.map_layers(adapt), kinds)


_NAMES = {
    **{name: to for name, to in llama.NAMES.items() if ".mlp." not in name},
    **space_names("mamba"),
    **granite.EXPERTS,
    "model.layers.{i}.shared_mlp.input_linear.*": To(
        "layers.{i}.mlp.shared.gate_up", otherwise="layers.{i}.mlp.gate_up"
    ),
    "model.layers.{i}.shared_mlp.output_linear.*": To("layers.{i}.mlp.shared.down", otherwise="layers.{i}.mlp.down"),
}

_GGUF_NAMES = {
    **llama.GGUF_NAMES,
    **gguf_space_names(),
    **GGUF_EXPERT_NAMES,
    "blk.{i}.attn_q.*": To("layers.{i}.attn.qkv", "q", unpair_q),
    "blk.{i}.attn_k.*": To("layers.{i}.attn.qkv", "k", unpair_k),
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    """Return the fields of config.json. Layers without key heads have a state space."""
    counts = layer_counts(file, "attention.head_count_kv")
    attending = with_largest(file, "attention.head_count_kv")
    num_experts = file.size("expert_count") or 0
    common = granite.gguf_moe_fields(attending) if num_experts else granite.gguf_fields(attending)
    is_rotated = file.boolean("rope.scaling.finetuned", True)
    return {
        **common,
        **gguf_space_fields(file),
        "attention_bias": any(name.endswith(".attn_q.bias") for name in file.tensors),
        "layer_types": ["attention" if count else "mamba" for count in counts],
        "num_local_experts": num_experts,
        "shared_intermediate_size": file.size("expert_shared_feed_forward_length")
        or file.integer("feed_forward_length"),
        "position_embedding_type": "rope" if is_rotated else None,
    }


FAMILY = Family(describe, _NAMES, _GGUF_NAMES, gguf_fields)
