"""Llama 4 (text): attention in chunks, some layers without positions, one routed and one shared expert per row.

Longer than a page because four fields state properties of layers, and GGUF leaves most of them out.
"""

import dataclasses
from typing import Any

from models.architecture.attention import QKNormSpec, QueryTemperature
from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import MLPSpec, MoESpec, RouterScore, RouterSpec
from models.architecture.layer import LayerSpec
from models.architecture.norm import NormKind, NormSpec
from models.checkpoints.gguf.fields import common_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.layers import layer_types, rope_layers
from models.families import llama
from models.families.experts import GGUF_EXPERT_NAMES, expert_names, gguf_expert_fields, shared_names
from models.families.name_map import To
from models.families.registry import Family
from models.families.transforms import transpose, unpermute_k, unpermute_q


def describe(config: HFConfig) -> DecoderSpec:
    spec = llama.describe(config, llama.Defaults(head_dim=128, rope_theta=500000.0, eps=1e-5))
    num_layers = len(spec.layers)
    has_rope = rope_layers(config, num_layers)
    chunks = _chunks(config, has_rope)
    moe_layers = _moe_layers(config, num_layers)
    temperature = _temperature(config)
    norm = NormSpec(NormKind.RMS, spec.layers[0].norm.eps, has_weight=False)
    qk_norm = QKNormSpec(norm, is_after_rope=True) if config.boolean("use_qk_norm", True) else None
    dense = MLPSpec(
        config.integer("intermediate_size_mlp", 16384), config.activation("hidden_act", "silu"), is_gated=True
    )
    moe = _experts(config) if moe_layers else None

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        attention = dataclasses.replace(layer.attention, chunk=chunks[index])
        layer = dataclasses.replace(layer, mixer=attention, mlp=moe if moe and index in moe_layers else dense)
        if has_rope[index]:
            return dataclasses.replace(layer, qk_norm=qk_norm)
        return dataclasses.replace(layer, rope=None, query_temperature=temperature)

    return spec.map_layers(adapt)


def _chunks(config: HFConfig, has_rope: list[bool]) -> list[int | None]:
    if config.is_null("attention_chunk_size"):
        return [None] * len(has_rope)
    size = config.integer("attention_chunk_size", 8192)
    types = layer_types(config, len(has_rope), {kind: kind for kind in ("full_attention", "chunked_attention")})
    are_chunked = has_rope if types is None else [kind == "chunked_attention" for kind in types]
    return [size if is_chunked else None for is_chunked in are_chunked]


def _moe_layers(config: HFConfig, num_layers: int) -> list[int]:
    if config.has("moe_layers"):
        return config.token_ids("moe_layers")
    step = config.integer("interleave_moe_layer_step", 1, minimum=0)
    return list(range(step - 1, num_layers, step)) if step else []


def _temperature(config: HFConfig) -> QueryTemperature | None:
    if config.raw("attn_temperature_tuning") in (False, 0):  # a number in early checkpoints
        return None
    return QueryTemperature(config.number("attn_scale", 0.1), config.number("floor_scale", 8192), offset=1)


def _experts(config: HFConfig) -> MoESpec:
    expert = MLPSpec(config.integer("intermediate_size"), config.activation("hidden_act", "silu"), is_gated=True)
    router = RouterSpec(
        score=RouterScore.SIGMOID,
        experts_per_token=config.integer("num_experts_per_tok", 1),
        renormalizes=False,
        scales_input=True,
    )
    return MoESpec(config.integer("num_local_experts", 16), expert, router, shared=expert)


NAMES = {
    **llama.NAMES,
    "model.layers.{i}.self_attn.q_proj.*": To("layers.{i}.attn.qkv", "q", unpermute_q),
    "model.layers.{i}.self_attn.k_proj.*": To("layers.{i}.attn.qkv", "k", unpermute_k),
    "model.layers.{i}.feed_forward.gate_proj.*": To("layers.{i}.mlp.gate_up", "gate"),
    "model.layers.{i}.feed_forward.up_proj.*": To("layers.{i}.mlp.gate_up", "up"),
    "model.layers.{i}.feed_forward.down_proj.*": To("layers.{i}.mlp.down"),
    "model.layers.{i}.feed_forward.router.weight": To("layers.{i}.mlp.router"),
    **expert_names("feed_forward"),
    "model.layers.{i}.feed_forward.experts.gate_up_proj": To("layers.{i}.mlp.experts.{e}.gate_up", transform=transpose),
    "model.layers.{i}.feed_forward.experts.down_proj": To("layers.{i}.mlp.experts.{e}.down", transform=transpose),
    **shared_names("feed_forward"),
}

GGUF_NAMES = {**llama.GGUF_NAMES, **GGUF_EXPERT_NAMES}
_CHUNK = 8192  # llama.cpp's, for every model with chunks
_NO_ROPE_INTERVAL = 4
_EXPERTS_WITHOUT_QK_NORM = 128


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    """Return fields of config.json with llama.cpp's assumptions: chunks, layers without positions, norms of q and k.

    An `attention.sliding_window` of 0 means that there are no chunks, and that every layer has a rotary embedding.
    """
    fields, num_experts = common_fields(file), file.size("expert_count")
    num_layers, dense_size = fields["num_hidden_layers"], fields["intermediate_size"]
    has_chunks = file.raw("attention.sliding_window") != 0
    chunk = file.integer("attention.chunk_size", _CHUNK)
    experts = gguf_expert_fields(file, size="intermediate_size") if num_experts else {}
    has_rope = [not has_chunks or (index + 1) % _NO_ROPE_INTERVAL != 0 for index in range(num_layers)]
    return {
        **fields,
        **experts,
        "intermediate_size_mlp": dense_size,
        "attention_chunk_size": chunk if has_chunks else None,
        "no_rope_layers": [int(flag) for flag in has_rope],
        "interleave_moe_layer_step": file.integer("interleave_moe_layer_step", minimum=0) if num_experts else 0,
        "use_qk_norm": num_experts != _EXPERTS_WITHOUT_QK_NORM,
    }


FAMILY = Family(describe, NAMES, GGUF_NAMES, gguf_fields)
