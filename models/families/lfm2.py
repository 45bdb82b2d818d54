"""LFM2: short convolutions in most layers, attention in the others; LFM2-MoE has experts in all but the first layers.

Longer than a page because no tensor has Llama's name, and sizes are derived from other fields.
"""

import dataclasses
from typing import Any

from models.architecture.attention import QKNormSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import MLPSpec, MoESpec, RouterScore, RouterSpec
from models.architecture.layer import LayerSpec
from models.architecture.recurrence import ShortConvSpec
from models.checkpoints.gguf.fields import common_fields, layer_counts, with_largest
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.layers import layer_types
from models.families import llama, qwen3
from models.families.experts import GGUF_EXPERT_NAMES, expert_names, gguf_expert_fields, require_sigmoid
from models.families.name_map import To
from models.families.registry import Family
from models.families.transforms import conv_weight


def describe(config: HFConfig) -> DecoderSpec:
    return _describe(config, _mlp_size(config))


def describe_moe(config: HFConfig) -> DecoderSpec:
    spec = _describe(config, config.integer("intermediate_size"))
    router = RouterSpec(
        score=RouterScore.SIGMOID,
        experts_per_token=config.integer("num_experts_per_tok", 4),
        renormalizes=config.boolean("norm_topk_prob", True),
        has_correction=config.boolean("use_expert_bias", True),
        scale=config.number("routed_scaling_factor", 1.0),
    )
    expert = MLPSpec(config.integer("moe_intermediate_size"), config.activation("hidden_act", "silu"), is_gated=True)
    moe = MoESpec(config.integer("num_experts", 32), expert, router)
    num_dense = config.integer("num_dense_layers", 2, minimum=0)
    return spec.map_layers(lambda index, layer: layer if index < num_dense else dataclasses.replace(layer, mlp=moe))


def _describe(config: HFConfig, mlp_size: int) -> DecoderSpec:
    as_llama = {
        "hidden_act": "silu",
        "rms_norm_eps": config.number("norm_eps", 1e-5),
        "intermediate_size": mlp_size,
        "tie_word_embeddings": config.boolean(config.first("tie_embedding", "tie_word_embeddings"), True),
    }
    spec = llama.describe(config.with_fields(as_llama), llama.Defaults(rope_theta=1e6))
    conv = ShortConvSpec(
        spec.hidden_size, config.integer("conv_L_cache", 3, minimum=2, maximum=8), config.boolean("conv_bias", False)
    )
    has_attention = _has_attention(config, len(spec.layers))

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        if has_attention[index]:
            return dataclasses.replace(layer, qk_norm=QKNormSpec(layer.norm))
        return dataclasses.replace(layer, mixer=conv, rope=None)

    return spec.map_layers(adapt)


def _has_attention(config: HFConfig, num_layers: int) -> list[bool]:
    types = layer_types(config, num_layers, {"conv": "conv", "full_attention": "full_attention"})
    if types is not None:
        return [kind != "conv" for kind in types]
    indices = config.token_ids("full_attn_idxs") if config.has("full_attn_idxs") else range(num_layers)
    return [index in indices for index in range(num_layers)]


def _mlp_size(config: HFConfig) -> int:
    """Return the MLP's size: by default two thirds of the configured size, rounded up, since it has three matrices."""
    size = config.integer(config.first("block_ff_dim", "intermediate_size"))
    if not config.boolean("block_auto_adjust_ff_dim", True):
        return size
    size = 2 * size // 3
    if config.is_null("block_ffn_dim_multiplier"):
        return size
    multiple = config.integer("block_multiple_of", 256)
    return -(-int(config.number("block_ffn_dim_multiplier", 1.0) * size) // multiple) * multiple


NAMES = {
    "model.embed_tokens.*": To("embed"),
    "model.embedding_norm.*": To("norm"),  # after the last layer, despite its name
    "lm_head.*": To("head"),
    "model.layers.{i}.operator_norm.*": To("layers.{i}.attn_norm"),
    "model.layers.{i}.self_attn.q_proj.*": To("layers.{i}.attn.qkv", "q"),
    "model.layers.{i}.self_attn.k_proj.*": To("layers.{i}.attn.qkv", "k"),
    "model.layers.{i}.self_attn.v_proj.*": To("layers.{i}.attn.qkv", "v"),
    "model.layers.{i}.self_attn.out_proj.*": To("layers.{i}.attn.out"),
    "model.layers.{i}.self_attn.q_layernorm.*": To("layers.{i}.attn.q_norm"),
    "model.layers.{i}.self_attn.k_layernorm.*": To("layers.{i}.attn.k_norm"),
    "model.layers.{i}.conv.in_proj.*": To("layers.{i}.attn.in_proj"),
    "model.layers.{i}.conv.conv.weight": To("layers.{i}.attn", None, conv_weight, "conv_weight"),
    "model.layers.{i}.conv.conv.bias": To("layers.{i}.attn", parameter="conv_bias"),
    "model.layers.{i}.conv.out_proj.*": To("layers.{i}.attn.out", when_present="layers.{i}.attn.in_proj"),
    "model.layers.{i}.ffn_norm.*": To("layers.{i}.mlp_norm"),
    "model.layers.{i}.feed_forward.w1.*": To("layers.{i}.mlp.gate_up", "gate"),
    "model.layers.{i}.feed_forward.w3.*": To("layers.{i}.mlp.gate_up", "up"),
    "model.layers.{i}.feed_forward.w2.*": To("layers.{i}.mlp.down"),
}

_MOE_NAMES = {
    **NAMES,
    **expert_names("feed_forward", gate="w1", up="w3", down="w2"),
    "model.layers.{i}.feed_forward.gate.weight": To("layers.{i}.mlp.router"),
    "model.layers.{i}.feed_forward.expert_bias": To("layers.{i}.mlp.router", parameter="correction"),
}

# --- GGUF ------------------------------------------------------------------------------------------------------------

GGUF_NAMES = {
    **qwen3.GGUF_NAMES,
    "token_embd_norm.*": To("norm"),
    "blk.{i}.shortconv.in_proj.*": To("layers.{i}.attn.in_proj"),
    "blk.{i}.shortconv.conv.weight": To("layers.{i}.attn", None, conv_weight, "conv_weight"),
    "blk.{i}.shortconv.conv.bias": To("layers.{i}.attn", parameter="conv_bias"),
    "blk.{i}.shortconv.out_proj.*": To("layers.{i}.attn.out"),
}
_GGUF_MOE_NAMES = {
    **GGUF_NAMES,
    **GGUF_EXPERT_NAMES,
    "blk.{i}.exp_probs_b.bias": To("layers.{i}.mlp.router", parameter="correction"),
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    """Return the fields of config.json. Layers without key heads have a convolution."""
    counts = layer_counts(file, "attention.head_count_kv")
    return {
        **common_fields(with_largest(file, "attention.head_count_kv")),
        "layer_types": ["full_attention" if count else "conv" for count in counts],
        "norm_eps": file.number("attention.layer_norm_rms_epsilon"),
        "conv_L_cache": file.integer("shortconv.l_cache"),
        "conv_bias": any(name.endswith("shortconv.conv.bias") for name in file.tensors),
        "block_auto_adjust_ff_dim": False,  # the file's size is already adjusted
    }


def gguf_moe_fields(file: GGUFMetadata) -> dict[str, Any]:
    require_sigmoid(file)
    return {
        **gguf_fields(file),
        **gguf_expert_fields(file),
        "num_dense_layers": file.integer("leading_dense_block_count", 0, minimum=0),
        "use_expert_bias": any(".exp_probs_b." in name for name in file.tensors),
    }


FAMILY = Family(describe, NAMES, GGUF_NAMES, gguf_fields)
MOE = Family(describe_moe, _MOE_NAMES, _GGUF_MOE_NAMES, gguf_moe_fields)
