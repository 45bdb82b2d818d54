"""Tiny configurations with recurrent layers, for the parity tests."""

from collections.abc import Callable

from transformers import (
    Lfm2Config,
    Lfm2MoeConfig,
    OlmoHybridConfig,
    PretrainedConfig,
    Qwen3_5MoeTextConfig,
    Qwen3_5TextConfig,
    Qwen3NextConfig,
)

from tests.helpers.checkpoints import SMALL

CONV_AND_ATTENTION = ["conv", "full_attention", "conv"]
DELTA_AND_ATTENTION = ["linear_attention", "full_attention", "linear_attention"]
DELTA = {
    **SMALL,
    "num_hidden_layers": 3,
    "layer_types": DELTA_AND_ATTENTION,
    "head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 32,
}
EXPERTS = {
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "shared_expert_intermediate_size": 32,
}


def lfm2(**changes: object) -> Lfm2Config:
    fields = {**SMALL, "num_hidden_layers": 3, "layer_types": CONV_AND_ATTENTION, "block_multiple_of": 32}
    return Lfm2Config(**{**fields, **changes})


def lfm2_moe(**changes: object) -> Lfm2MoeConfig:
    fields = {**SMALL, "num_hidden_layers": 3, "layer_types": CONV_AND_ATTENTION, "num_dense_layers": 1}
    experts = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
    return Lfm2MoeConfig(**{**fields, **experts, **changes})


def qwen3_next(**changes: object) -> Qwen3NextConfig:
    return Qwen3NextConfig(**{**DELTA, **EXPERTS, **changes})


def qwen35(**changes: object) -> Qwen3_5TextConfig:
    return Qwen3_5TextConfig(**{**DELTA, **changes})


def qwen35_moe(**changes: object) -> Qwen3_5MoeTextConfig:
    return Qwen3_5MoeTextConfig(**{**DELTA, **EXPERTS, **changes})


def olmo_hybrid(**changes: object) -> OlmoHybridConfig:
    fields = {**DELTA, "pad_token_id": None, "rope_parameters": {"rope_theta": None, "rope_type": "default"}}
    return OlmoHybridConfig(**{**fields, **changes})


RECURRENT_VARIANTS: dict[str, Callable[[], PretrainedConfig]] = {
    "lfm2": lfm2,
    "lfm2-biases-wide-untied": lambda: lfm2(
        conv_bias=True, conv_L_cache=4, block_auto_adjust_ff_dim=False, tie_word_embeddings=False, norm_eps=1e-3
    ),
    "lfm2-moe": lfm2_moe,
    "lfm2-moe-plain-router": lambda: lfm2_moe(
        use_expert_bias=False,
        norm_topk_prob=False,
        num_dense_layers=0,
        routed_scaling_factor=0.7,
        conv_bias=True,
        norm_eps=1e-3,
    ),
    "olmo-hybrid": olmo_hybrid,
    "olmo-hybrid-rotary-biases": lambda: olmo_hybrid(
        rope_parameters={"rope_theta": 5000.0, "rope_type": "default"},
        linear_allow_neg_eigval=False,
        linear_value_head_dim=20,
        linear_num_value_heads=2,
        attention_bias=True,
        rms_norm_eps=1e-3,
        tie_word_embeddings=True,
    ),
    "qwen3-next": qwen3_next,
    "qwen3-next-mixed-tied": lambda: qwen3_next(
        mlp_only_layers=[0],
        norm_topk_prob=False,
        linear_num_value_heads=2,
        linear_value_head_dim=20,  # no kernel takes it
        tie_word_embeddings=True,
        rms_norm_eps=1e-3,
    ),
    "qwen3.5": qwen35,
    "qwen3.5-mha-biases": lambda: qwen35(
        num_key_value_heads=4, attention_bias=True, linear_conv_kernel_dim=2, rms_norm_eps=1e-3
    ),
    "qwen3.5-moe": qwen35_moe,
    "qwen3.5-moe-tied": lambda: qwen35_moe(tie_word_embeddings=True, linear_num_value_heads=2),
}
