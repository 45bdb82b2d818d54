"""OLMo 1: Llama with LayerNorms without weights. OLMo 2, OLMo 3 and OLMoE: norms of whole query and key projections,
and norms after the sublayers (not in OLMoE)."""

import dataclasses
from typing import Any

from models.architecture.attention import QKNormScope, QKNormSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import MoESpec, RouterScore, RouterSpec
from models.architecture.layer import LayerSpec, NormPlacement
from models.architecture.norm import NormKind, NormSpec
from models.checkpoints.gguf.fields import common_fields, window_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.checkpoints.gguf.rope import rope_parameters_by_layer
from models.config.hf_config import HFConfig
from models.config.layers import sliding_windows
from models.config.rope import rope_spec
from models.errors import UnsupportedModelError
from models.families import llama, qwen3
from models.families.experts import GGUF_EXPERT_NAMES, expert_names, gguf_expert_fields
from models.families.name_map import To
from models.families.registry import Family


def describe_olmo(config: HFConfig) -> DecoderSpec:
    norm = NormSpec(NormKind.LAYER, 1e-5, has_weight=False)
    limit = config.number("clip_qkv") if config.has("clip_qkv") else None
    spec = llama.describe(config, llama.Defaults(activation="silu"))
    spec = spec.map_layers(lambda _, layer: dataclasses.replace(layer, norm=norm, qkv_limit=limit))
    return dataclasses.replace(spec, final_norm=norm)


def describe_olmo2(config: HFConfig) -> DecoderSpec:
    return llama.describe(config, llama.Defaults(eps=1e-5)).map_layers(lambda _, layer: with_post_norms(layer))


def with_post_norms(layer: LayerSpec) -> LayerSpec:
    return dataclasses.replace(layer, placement=NormPlacement.POST, qk_norm=_qk_norm(layer))


def describe_olmo3(config: HFConfig) -> DecoderSpec:
    """Describe OLMo 3: OLMo 2 with a window in three of four layers; only the other layers have rotary scaling."""
    spec = describe_olmo2(config)
    windows = sliding_windows(config, len(spec.layers), is_windowed=lambda index: (index + 1) % 4 != 0, default=4096)

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        kind = "full_attention" if windows[index] is None else "sliding_attention"
        rope = rope_spec(config, layer.attention.head_dim, layer_type=kind, default_theta=500000.0)
        if windows[index] is not None:
            rope = dataclasses.replace(rope, scaling=None)
        return dataclasses.replace(layer.with_window(windows[index]), rope=rope)

    return spec.map_layers(adapt)


def describe_olmoe(config: HFConfig) -> DecoderSpec:
    if config.has("clip_qkv"):
        raise UnsupportedModelError(f"{config.source}: clip_qkv, a bound on q, k and v, is not supported")
    router = RouterSpec(
        score=RouterScore.SOFTMAX,
        experts_per_token=config.integer("num_experts_per_tok", 8),
        renormalizes=config.boolean("norm_topk_prob", False),
    )
    num_experts = config.integer(config.first("num_experts", "num_local_experts"), 64)

    def adapt(_: int, layer: LayerSpec) -> LayerSpec:
        return dataclasses.replace(layer, qk_norm=_qk_norm(layer), mlp=MoESpec(num_experts, layer.dense_mlp, router))

    return llama.describe(config, llama.Defaults(eps=1e-5)).map_layers(adapt)


def _qk_norm(layer: LayerSpec) -> QKNormSpec:
    return QKNormSpec(layer.norm, QKNormScope.PROJECTION)


NAMES = {
    **qwen3.NAMES,
    "model.layers.{i}.post_attention_layernorm.*": To("layers.{i}.attn_post_norm"),
    "model.layers.{i}.post_feedforward_layernorm.*": To("layers.{i}.mlp_post_norm"),
}

GGUF_NAMES = {
    **qwen3.GGUF_NAMES,
    "blk.{i}.post_attention_norm.*": To("layers.{i}.attn_post_norm"),
    "blk.{i}.post_ffw_norm.*": To("layers.{i}.mlp_post_norm"),
}


def gguf_olmo3(file: GGUFMetadata) -> dict[str, Any]:
    fields = {**common_fields(file), **window_fields(file)}
    return {**fields, "rope_parameters": rope_parameters_by_layer(file, fields["head_dim"])}


def gguf_olmoe(file: GGUFMetadata) -> dict[str, Any]:
    is_normed = file.boolean("expert_weights_norm", False)
    experts = gguf_expert_fields(file, size="intermediate_size")
    return {**common_fields(file), **experts, "norm_topk_prob": is_normed}


def gguf_olmo(file: GGUFMetadata) -> dict[str, Any]:
    return {**common_fields(file), "clip_qkv": file.scale("attention.clamp_kqv")}


OLMO = Family(describe_olmo, llama.NAMES, llama.GGUF_NAMES, gguf_olmo)
OLMO2 = Family(describe_olmo2, NAMES, GGUF_NAMES)
OLMO3 = Family(describe_olmo3, NAMES, GGUF_NAMES, gguf_olmo3)
OLMOE = Family(
    describe_olmoe,
    {**qwen3.NAMES, "model.layers.{i}.mlp.gate.weight": To("layers.{i}.mlp.router"), **expert_names("mlp")},
    {**qwen3.GGUF_NAMES, **GGUF_EXPERT_NAMES},
    gguf_olmoe,
)
