"""MiniMax-Text-01 and M1: lightning attention in most layers, experts, and residuals of normalized rows."""

import dataclasses
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.architecture.layer import LayerSpec, NormPlacement
from models.architecture.norm import NormKind, NormSpec
from models.architecture.recurrence import GatePlace, StateSpaceSpec
from models.checkpoints.gguf.fields import num_layers
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.layers import kinds_of_layers
from models.families import mixtral, qwen2
from models.families.experts import GGUF_EXPERT_NAMES
from models.families.name_map import IGNORE, To
from models.families.registry import Family
from models.families.state_spaces import require_silu
from models.families.transforms import values_keys_queries

_NORM = NormSpec(NormKind.RMS, 1e-6)  # of the heads together; not the configured epsilon


def describe(config: HFConfig) -> DecoderSpec:
    require_silu(config, "hidden_act")
    share = {"partial_rotary_factor": _rotary_share(config)} if config.has("rotary_dim") else {}
    # Windows are all layers'.
    spec = mixtral.describe(config.with_fields({**share, "hidden_act": "silu", "layer_types": None}))
    kinds = kinds_of_layers(
        config,
        len(spec.layers),
        ("linear_attention", "full_attention"),
        lambda index: "linear_attention" if index % 2 else "full_attention",
        numbered="attn_type_list",  # of released checkpoints
    )

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        is_full = kinds[index] == "full_attention"
        name = "full" if is_full else "linear"
        layer = dataclasses.replace(
            layer,
            placement=NormPlacement.BEFORE_SKIP,
            skip_scale=_factor(config, f"{name}_attn_alpha_factor", f"layernorm_{name}_attention_alpha"),
            sublayer_scale=_factor(config, f"{name}_attn_beta_factor", f"layernorm_{name}_attention_beta"),
            mlp_skip_scale=_factor(config, "mlp_alpha_factor", "layernorm_mlp_alpha"),
            mlp_sublayer_scale=_factor(config, "mlp_beta_factor", "layernorm_mlp_beta"),
        )
        if is_full:
            return layer
        lightning = _lightning(layer.attention.num_heads, layer.attention.head_dim, index, len(spec.layers))
        return dataclasses.replace(layer, mixer=lightning, rope=None)

    return spec.map_layers(adapt)


def _rotary_share(config: HFConfig) -> float:
    head_dim = config.integer("head_dim", config.integer("hidden_size") // config.integer("num_attention_heads"))
    return config.integer("rotary_dim") / head_dim


def _factor(config: HFConfig, *names: str) -> float:
    return config.number(config.first(*names), 1.0)


def _lightning(num_heads: int, head_dim: int, index: int, num_layers: int) -> StateSpaceSpec:
    """Return the linear attention of a layer. Its decays are ALiBi's slopes, slower in later layers."""
    slowing = 1 - index / (num_layers - 1 + 1e-5) + 1e-5
    return StateSpaceSpec(
        num_heads=num_heads,
        head_dim=head_dim,
        num_groups=num_heads,
        state_size=head_dim,
        kernel_size=None,
        norm=_NORM,
        gate=GatePlace.AFTER_NORM,
        rates=tuple(2 ** (-8 * (head + 1) / num_heads) * slowing for head in range(num_heads)),
        norms_all_channels=True,
        has_sigmoid_gate=True,
    )


NAMES = {
    **mixtral.NAMES,
    # computed from the configuration
    **{f"model.layers.{{i}}.self_attn.{name}": IGNORE for name in ("slope_rate", "query_decay", "key_decay")},
    "model.layers.{i}.self_attn.diagonal_decay": IGNORE,
    "model.layers.{i}.self_attn.qkv_proj.*": To("layers.{i}.attn.in_proj", "xbc", values_keys_queries),
    "model.layers.{i}.self_attn.output_gate.*": To("layers.{i}.attn.in_proj", "z"),
    "model.layers.{i}.self_attn.norm.*": To("layers.{i}.attn.norm"),
    "model.layers.{i}.self_attn.out_proj.*": To("layers.{i}.attn.out", when_present="layers.{i}.attn.in_proj"),
}

GGUF_NAMES = {
    **qwen2.GGUF_NAMES,
    **GGUF_EXPERT_NAMES,
    "blk.{i}.attn_qkv.*": To("layers.{i}.attn.in_proj", "xbc", values_keys_queries),
    "blk.{i}.attn_gate.*": To("layers.{i}.attn.in_proj", "z"),
    "blk.{i}.attn_norm_2.*": To("layers.{i}.attn.norm"),
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    """Return the fields of config.json. Files have one factor for all residuals; gates show which layers are linear."""
    alphas = [f"{name}_alpha_factor" for name in ("full_attn", "linear_attn", "mlp")]
    is_linear = [f"blk.{index}.attn_gate.weight" in file.tensors for index in range(num_layers(file))]
    return {
        **mixtral.gguf_fields(file),
        **dict.fromkeys(alphas, file.scale("residual_scale") or 1.0),
        "layer_types": ["linear_attention" if linear else "full_attention" for linear in is_linear],
    }


FAMILY = Family(describe, NAMES, GGUF_NAMES, gguf_fields)
