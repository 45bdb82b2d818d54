"""DeepSeek V2 and V3 (R1, Kimi K2 and Moonlight too): latent attention, experts in groups beside shared ones."""

import dataclasses

import torch

from models.errors import UnsupportedModelError
from models.families import llama
from models.families.experts import expert_names, shared_names
from models.hf_config import HFConfig
from models.names import IGNORE, To, joined
from models.registry import Family
from models.rope_config import rope_spec, yarn_mscale
from models.spec import (
    DecoderSpec,
    GroupScore,
    LatentSpec,
    LayerSpec,
    MLPSpec,
    MoESpec,
    NormKind,
    NormSpec,
    RopeSpec,
    RouterScore,
    RouterSpec,
    YarnScaling,
)


def describe_v2(config: HFConfig) -> DecoderSpec:
    method = config.text("topk_method", "greedy")
    if method not in ("greedy", "group_limited_greedy"):
        raise UnsupportedModelError(
            f"{config.source}: topk_method is {method!r}; supported are 'greedy' and 'group_limited_greedy'"
        )
    is_grouped = method == "group_limited_greedy"
    router = RouterSpec(
        score=RouterScore.SOFTMAX,
        experts_per_token=config.integer("num_experts_per_tok"),
        renormalises=False,
        num_groups=config.integer("n_group") if is_grouped else 1,
        groups_per_token=config.integer("topk_group") if is_grouped else 1,
        group_score=GroupScore.BEST,
        scale=config.number("routed_scaling_factor", 1.0),
    )
    return _describe(config, router, num_dense=config.integer("first_k_dense_replace", 0, minimum=0))


def describe_v3(config: HFConfig) -> DecoderSpec:
    router = RouterSpec(
        score=RouterScore.SIGMOID,
        experts_per_token=config.integer("num_experts_per_tok", 8),
        renormalises=config.boolean("norm_topk_prob", True),
        has_correction=True,
        num_groups=config.integer("n_group", 8),
        groups_per_token=config.integer("topk_group", 4),
        group_score=GroupScore.BEST_TWO,
        scale=config.number("routed_scaling_factor", 2.5),
    )
    return _describe(config, router, num_dense=config.integer("first_k_dense_replace", 3, minimum=0))


def _describe(config: HFConfig, router: RouterSpec, *, num_dense: int) -> DecoderSpec:
    """num_dense: layers before the first that has experts."""
    latent = _latent(config)
    spec = llama.describe(config, default_head_dim=latent.rope_dim)
    rope = rope_spec(config, latent.rope_dim)
    moe = _experts(config, router)

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        attention = latent.attention(layer.attention.num_heads, _scale(config, latent, rope))
        mlp = layer.mlp if index < num_dense else moe
        return dataclasses.replace(layer, attention=attention, latent=latent, rope=rope, mlp=mlp)

    return spec.map_layers(adapt)


def _latent(config: HFConfig) -> LatentSpec:
    q_rank = config.integer("q_lora_rank") if config.has("q_lora_rank") else None
    if q_rank is None and config.boolean("attention_bias", False):
        raise UnsupportedModelError(f"{config.source}: attention_bias without q_lora_rank is not supported")
    if not config.boolean("rope_interleave", True):
        raise UnsupportedModelError(f"{config.source}: rope_interleave false is not supported")
    return LatentSpec(
        q_rank=q_rank,
        kv_rank=config.integer("kv_lora_rank"),
        nope_dim=config.integer("qk_nope_head_dim"),
        rope_dim=config.integer("qk_rope_head_dim"),
        value_dim=config.integer("v_head_dim"),
        norm=NormSpec(NormKind.RMS, 1e-6),  # whatever rms_norm_eps is
    )


def _scale(config: HFConfig, latent: LatentSpec, rope: RopeSpec) -> float:
    """Of logits. With yarn they are warmer, by `mscale_all_dim`: in rotated and other dimensions alike."""
    scale = (latent.nope_dim + latent.rope_dim) ** -0.5
    scaling = config.section("rope_parameters" if config.has("rope_parameters") else "rope_scaling")
    if not isinstance(rope.scaling, YarnScaling):
        return scale
    return scale * yarn_mscale(rope.scaling.factor, scaling.number("mscale_all_dim", 0.0, minimum=0.0)) ** 2


def _experts(config: HFConfig, router: RouterSpec) -> MoESpec:
    size, activation = config.integer("moe_intermediate_size"), config.activation("hidden_act")
    num_shared = config.integer("n_shared_experts", 0, minimum=0)
    return MoESpec(
        num_experts=config.integer("n_routed_experts"),
        expert=MLPSpec(size, activation, is_gated=True),
        router=router,
        shared=MLPSpec(num_shared * size, activation, is_gated=True) if num_shared else None,
    )


# --- names -----------------------------------------------------------------------------------------------------------


def turned_first_q(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    """Rows of each head's query: those that are turned first, and their pairs as RopeSpec wants them."""
    assert layer is not None
    assert layer.latent is not None
    heads = tensor.unflatten(0, (layer.attention.num_heads, -1))  # [H, nope + rope, ...]
    nope_dim = layer.latent.nope_dim
    return joined((_halves(heads[:, nope_dim:], 1), heads[:, :nope_dim]), dim=1).flatten(0, 1)


def turned_first_row(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    """The same of a row of the cache, which a checkpoint makes as [latent | turned part]."""
    assert layer is not None
    assert layer.latent is not None
    rank = layer.latent.kv_rank
    return joined((_halves(tensor[rank:], 0), tensor[:rank]))


def _halves(tensor: torch.Tensor, dim: int) -> torch.Tensor:
    """Rotary pairs (2d, 2d + 1) along `dim` as (d, d + half)."""
    return tensor.unflatten(dim, (-1, 2)).transpose(dim, dim + 1).flatten(dim, dim + 1)


def keys_of_heads(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    """kv_b_proj [H * (nope + value), rank] to each head's W_k, transposed: [H, rank, nope]."""
    assert layer is not None
    assert layer.latent is not None
    return tensor.unflatten(0, (layer.attention.num_heads, -1))[:, : layer.latent.nope_dim].transpose(1, 2)


def values_of_heads(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    """kv_b_proj to each head's W_v: [H, value, rank]."""
    assert layer is not None
    assert layer.latent is not None
    return tensor.unflatten(0, (layer.attention.num_heads, -1))[:, layer.latent.nope_dim :]


NAMES = {
    "model.layers.{x}.**": IGNORE,  # V3's, for predicting several tokens
    **llama.NAMES,
    "model.layers.{i}.self_attn.q_proj.*": To("layers.{i}.attn.qkv", "q", turned_first_q),
    "model.layers.{i}.self_attn.q_a_proj.*": To("layers.{i}.attn.qkv", "q"),
    "model.layers.{i}.self_attn.q_a_layernorm.*": To("layers.{i}.attn.q_norm"),
    "model.layers.{i}.self_attn.q_b_proj.*": To("layers.{i}.attn.q_up", transform=turned_first_q),
    "model.layers.{i}.self_attn.kv_a_proj_with_mqa.*": To("layers.{i}.attn.qkv", "kv", turned_first_row),
    "model.layers.{i}.self_attn.kv_a_layernorm.*": To("layers.{i}.attn.kv_norm"),
    "model.layers.{i}.self_attn.kv_b_proj.*": (
        To("layers.{i}.attn.k_up", transform=keys_of_heads),
        To("layers.{i}.attn.v_up", transform=values_of_heads),
    ),
    "model.layers.{i}.mlp.gate.weight": To("layers.{i}.mlp.router"),
    "model.layers.{i}.mlp.gate.e_score_correction_bias": To("layers.{i}.mlp.router", parameter="correction"),
    **expert_names("mlp"),
    **shared_names("mlp", name="shared_experts"),
}

V2 = Family(describe_v2, NAMES, None)
V3 = Family(describe_v3, NAMES, None)
