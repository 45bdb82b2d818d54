"""DeepSeek V2 and V3 (also R1, Kimi K2 and Moonlight): latent attention, grouped experts and shared experts. Also OCR.

Longer than a page because of two sets of defaults, and of matrices that are split or reordered, in GGUF in two ways.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import torch

from models.architecture.attention import LatentSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import GroupScore, MLPSpec, MoESpec, RouterScore, RouterSpec
from models.architecture.layer import LayerSpec
from models.architecture.norm import NormKind, NormSpec
from models.architecture.positions import RopeSpec, YarnScaling
from models.checkpoints.gguf.fields import common_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.layers import sparse_layers
from models.config.rope import rope_spec, yarn_mscale
from models.errors import CheckpointError, UnsupportedModelError
from models.families import llama
from models.families.experts import (
    GGUF_EXPERT_NAMES,
    expert_names,
    gguf_expert_fields,
    gguf_mlp_types,
    gguf_scoring,
    shared_names,
)
from models.families.name_map import IGNORE, To
from models.families.registry import Family
from models.families.transforms import concatenate

# transformers' defaults for fields that a configuration leaves out; None: the field is required.
V2_DEFAULTS = {
    "scoring_func": "softmax",
    "topk_method": "greedy",
    "num_experts_per_tok": None,
    "n_group": None,
    "topk_group": None,
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.0,
    "first_k_dense_replace": 0,
    "n_shared_experts": 2,
}
V3_DEFAULTS = {
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "first_k_dense_replace": 3,
    "n_shared_experts": 1,
}
# of V3's experts without groups, after one dense layer, as most later families have them
UNGROUPED_DEFAULTS = {**V3_DEFAULTS, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
_SCORES = {"softmax": RouterScore.SOFTMAX, "sigmoid": RouterScore.SIGMOID}


def describe(config: HFConfig, defaults: Mapping[str, Any], rope_theta: float = 10000.0) -> DecoderSpec:
    latent = _latent(config)
    eps = defaults.get("rms_norm_eps", 1e-6)
    spec = llama.describe(config, llama.Defaults(head_dim=latent.rope_dim, eps=eps))
    rope = rope_spec(config, latent.rope_dim, default_theta=rope_theta)

    def adapt(_: int, layer: LayerSpec) -> LayerSpec:
        attention = latent.attention(layer.attention.num_heads, _scale(config, latent, rope))
        return dataclasses.replace(layer, mixer=attention, latent=latent, rope=rope)

    return with_experts(config, spec.map_layers(adapt), defaults)


def describe_plain(config: HFConfig) -> DecoderSpec:
    """Describe DeepSeek-OCR's language model: Llama's attention with V2's experts."""
    return with_experts(config, llama.describe(config, llama.Defaults(activation="silu")), V2_DEFAULTS)


def with_experts(config: HFConfig, spec: DecoderSpec, defaults: Mapping[str, Any]) -> DecoderSpec:
    """Return `spec` with experts after the dense layers, by DeepSeek's fields.

    defaults: values of fields that the configuration leaves out, such as UNGROUPED_DEFAULTS.
    """
    is_sparse = sparse_layers(config, len(spec.layers), defaults["first_k_dense_replace"])
    moe = _experts(config, defaults) if any(is_sparse) else None
    return spec.map_layers(
        lambda index, layer: dataclasses.replace(layer, mlp=moe if moe and is_sparse[index] else layer.mlp)
    )


def _router(config: HFConfig, defaults: Mapping[str, Any]) -> RouterSpec:
    score = config.text("scoring_func", defaults["scoring_func"])
    method = config.text("topk_method", defaults["topk_method"])
    if score not in _SCORES or method not in ("greedy", "group_limited_greedy", "noaux_tc"):
        raise UnsupportedModelError(
            f"{config.source}: scoring_func {score!r} with topk_method {method!r} is not supported; supported are "
            "'softmax' and 'sigmoid' with 'greedy', 'group_limited_greedy' or 'noaux_tc'"
        )
    is_grouped = method != "greedy"
    return RouterSpec(
        score=_SCORES[score],
        experts_per_token=config.integer("num_experts_per_tok", defaults["num_experts_per_tok"]),
        # No V2 on the hub sets this. transformers' V2 would ignore it, and DeepSeek's own code would not scale then.
        renormalizes=config.boolean("norm_topk_prob", defaults["norm_topk_prob"]),
        has_correction=method == "noaux_tc",
        num_groups=config.integer("n_group", defaults["n_group"]) if is_grouped else 1,
        groups_per_token=config.integer("topk_group", defaults["topk_group"]) if is_grouped else 1,
        group_score=GroupScore.BEST_TWO if method == "noaux_tc" else GroupScore.BEST,
        scale=config.number("routed_scaling_factor", defaults["routed_scaling_factor"]),
    )


def _latent(config: HFConfig) -> LatentSpec:
    q_rank = config.integer("q_lora_rank") if config.has("q_lora_rank") else None
    if q_rank is None and config.boolean("attention_bias", False):
        raise UnsupportedModelError(f"{config.source}: attention_bias without q_lora_rank is not supported")
    if not config.boolean("rope_interleave", True):
        raise UnsupportedModelError(f"{config.source}: rope_interleave false is not supported")
    if (rope_dim := config.integer("qk_rope_head_dim")) % 2:
        raise CheckpointError(f"{config.source}: qk_rope_head_dim is {rope_dim}; it must be even; {config.remedy}")
    return LatentSpec(
        q_rank=q_rank,
        kv_rank=config.integer("kv_lora_rank"),
        nope_dim=config.integer("qk_nope_head_dim"),
        rope_dim=rope_dim,
        value_dim=config.integer("v_head_dim"),
        norm=NormSpec(NormKind.RMS, 1e-6),  # regardless of rms_norm_eps
    )


def _scale(config: HFConfig, latent: LatentSpec, rope: RopeSpec) -> float:
    """Return the scale of attention logits. With yarn, `mscale_all_dim` increases it for all dimensions of a head."""
    scale = (latent.nope_dim + latent.rope_dim) ** -0.5
    scaling = config.section("rope_parameters" if config.has("rope_parameters") else "rope_scaling")
    if not isinstance(rope.scaling, YarnScaling):
        return scale
    return scale * yarn_mscale(rope.scaling.factor, scaling.number("mscale_all_dim", 0.0, minimum=0.0)) ** 2


def _experts(config: HFConfig, defaults: Mapping[str, Any]) -> MoESpec:
    size, activation = config.integer("moe_intermediate_size"), config.activation("hidden_act")
    default_shared = 0 if config.is_null("n_shared_experts") else defaults["n_shared_experts"]
    num_shared = config.integer("n_shared_experts", default_shared, minimum=0)
    return MoESpec(
        num_experts=config.integer("n_routed_experts"),
        expert=MLPSpec(size, activation, is_gated=True),
        router=_router(config, defaults),
        shared=MLPSpec(num_shared * size, activation, is_gated=True) if num_shared else None,
    )


# --- names -----------------------------------------------------------------------------------------------------------


def rotary_first_q(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    """Move the rotary part of each head's query to the front, with its pairs in RopeSpec's order.

    In a layer without latent attention, such as a recurrence, the queries are unchanged.
    """
    assert layer is not None
    if layer.latent is None:
        return tensor
    heads = tensor.unflatten(0, (layer.attention.num_heads, -1))  # [H, nope + rope, ...]
    nope_dim = layer.latent.nope_dim
    return concatenate((_halves(heads[:, nope_dim:], 1), heads[:, :nope_dim]), dim=1).flatten(0, 1)


def rotary_first_row(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    """Move the rotary part of the cached vector to the front, like `rotary_first_q`. Stored: [latent | rotary part]."""
    assert layer is not None
    assert layer.latent is not None
    rank = layer.latent.kv_rank
    return concatenate((_halves(tensor[rank:], 0), tensor[:rank]))


def _halves(tensor: torch.Tensor, dim: int) -> torch.Tensor:
    """Move rotary pairs (2d, 2d + 1) along `dim` to (d, d + half)."""
    return tensor.unflatten(dim, (-1, 2)).transpose(dim, dim + 1).flatten(dim, dim + 1)


def keys_of_heads(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    """Select each head's W_k from kv_b_proj [H * (nope + value), rank], transposed: [H, rank, nope]."""
    assert layer is not None
    assert layer.latent is not None
    return tensor.unflatten(0, (layer.attention.num_heads, -1))[:, : layer.latent.nope_dim].transpose(1, 2)


def values_of_heads(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    """Select each head's W_v from kv_b_proj: [H, value, rank]."""
    assert layer is not None
    assert layer.latent is not None
    return tensor.unflatten(0, (layer.attention.num_heads, -1))[:, layer.latent.nope_dim :]


def routed_names(block: str, **matrices: str) -> dict[str, To | tuple[To, ...] | None]:
    """Return rules for routers, experts and shared experts. block, matrices: as in `expert_names`."""
    router = f"model.layers.{{i}}.{block}.gate"
    return {
        f"{router}.weight": To("layers.{i}.mlp.router"),
        f"{router}.e_score_correction_bias": To("layers.{i}.mlp.router", parameter="correction"),
        **expert_names(block, **matrices),
        **shared_names(block, name="shared_experts"),
    }


ROUTED_NAMES = routed_names("mlp")

GGUF_ROUTED_NAMES = {
    **GGUF_EXPERT_NAMES,
    "blk.{i}.exp_probs_b.bias": To("layers.{i}.mlp.router", parameter="correction"),
}

NAMES = {
    "model.layers.{x}.**": IGNORE,  # V3's multi-token prediction
    **llama.NAMES,
    "model.layers.{i}.self_attn.q_proj.*": To("layers.{i}.attn.qkv", "q", rotary_first_q),
    "model.layers.{i}.self_attn.q_a_proj.*": To("layers.{i}.attn.qkv", "q", when_present="layers.{i}.attn.q_up"),
    "model.layers.{i}.self_attn.q_a_layernorm.*": To("layers.{i}.attn.q_norm"),
    "model.layers.{i}.self_attn.q_b_proj.*": To("layers.{i}.attn.q_up", transform=rotary_first_q),
    "model.layers.{i}.self_attn.kv_a_proj_with_mqa.*": To("layers.{i}.attn.qkv", "kv", rotary_first_row),
    "model.layers.{i}.self_attn.kv_a_layernorm.*": To("layers.{i}.attn.kv_norm"),
    "model.layers.{i}.self_attn.kv_b_proj.*": (
        To("layers.{i}.attn.k_up", transform=keys_of_heads),
        To("layers.{i}.attn.v_up", transform=values_of_heads),
    ),
    **ROUTED_NAMES,
}

GGUF_NAMES = {
    "blk.{x}.**": IGNORE,
    **llama.GGUF_NAMES,
    **GGUF_ROUTED_NAMES,
    "blk.{i}.attn_q.*": To("layers.{i}.attn.qkv", "q", rotary_first_q),
    "blk.{i}.attn_q_a.*": To("layers.{i}.attn.qkv", "q"),
    "blk.{i}.attn_q_a_norm.*": To("layers.{i}.attn.q_norm"),
    "blk.{i}.attn_q_b.*": To("layers.{i}.attn.q_up", transform=rotary_first_q),
    "blk.{i}.attn_kv_a_mqa.*": To("layers.{i}.attn.qkv", "kv", rotary_first_row),
    "blk.{i}.attn_kv_a_norm.*": To("layers.{i}.attn.kv_norm"),
    "blk.{i}.attn_k_b.*": To("layers.{i}.attn.k_up"),
    "blk.{i}.attn_v_b.*": To("layers.{i}.attn.v_up"),
    "blk.{i}.attn_kv_b.*": NAMES["model.layers.{i}.self_attn.kv_b_proj.*"],  # older files
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    rope_dim = file.integer("rope.dimension_count")
    key_dim, value_dim = (_head_length(file, name) for name in ("key", "value"))
    plain_lengths = dict.fromkeys(("attention.key_length", "attention.value_length"), rope_dim)
    fields = common_fields(file.with_fields(plain_lengths))
    weight = 10 * (file.scale("rope.scaling.yarn_log_multiplier") or 0.0)  # the converter divides it by 10
    if weight:
        fields["rope_parameters"] |= {"mscale": weight, "mscale_all_dim": weight}
    return {
        **fields,
        **gguf_routed_fields(file),
        "q_lora_rank": file.size("attention.q_lora_rank"),
        "kv_lora_rank": file.integer("attention.kv_lora_rank"),
        "qk_rope_head_dim": rope_dim,
        "qk_nope_head_dim": key_dim - rope_dim,
        "v_head_dim": value_dim,
    }


def _head_length(file: GGUFMetadata, part: str) -> int:
    """Return the head size of `part`, "key" or "value".

    In newer files this is the field "..._length_mla", and "..._length" is the size of a cached row.
    """
    return file.integer(file.first(f"attention.{part}_length_mla", f"attention.{part}_length"))


def gguf_routed_fields(file: GGUFMetadata, *, scoring: str = "softmax") -> dict[str, Any]:
    """Return the fields that `with_experts` reads. scoring: what the architecture's files mean if they do not say.

    Routers that correct scores have sigmoids, also in files that do not say so (GLM-4.7-Flash).
    """
    num_groups = file.size("expert_group_count") or 1
    is_corrected = any(name.endswith("exp_probs_b.bias") for name in file.tensors)
    return {
        **gguf_expert_fields(file),
        "n_routed_experts": file.integer("expert_count"),
        "n_shared_experts": file.size("expert_shared_count") or 0,
        "first_k_dense_replace": file.integer("leading_dense_block_count", 0, minimum=0),
        "mlp_layer_types": gguf_mlp_types(file),
        "scoring_func": gguf_scoring(file, default="sigmoid" if is_corrected else scoring),
        "topk_method": "noaux_tc" if is_corrected else "greedy" if num_groups == 1 else "group_limited_greedy",
        "n_group": num_groups,
        "topk_group": file.size("expert_group_used_count") or 1,
        "norm_topk_prob": file.boolean("expert_weights_norm", False),
        "routed_scaling_factor": file.scale("expert_weights_scale") or 1.0,
    }


OCR = Family(describe_plain, {**llama.NAMES, **ROUTED_NAMES})
V2 = Family(functools.partial(describe, defaults=V2_DEFAULTS), NAMES, GGUF_NAMES, gguf_fields)
V3 = Family(functools.partial(describe, defaults=V3_DEFAULTS), NAMES, GGUF_NAMES, gguf_fields)
