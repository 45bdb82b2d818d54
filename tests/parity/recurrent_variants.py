"""Tiny configurations with recurrent layers, for the parity tests."""

from collections.abc import Callable

from transformers import Lfm2Config, Lfm2MoeConfig, PretrainedConfig

from tests.helpers.checkpoints import SMALL

CONV_AND_ATTENTION = ["conv", "full_attention", "conv"]


def lfm2(**changes: object) -> Lfm2Config:
    fields = {**SMALL, "num_hidden_layers": 3, "layer_types": CONV_AND_ATTENTION, "block_multiple_of": 32}
    return Lfm2Config(**{**fields, **changes})


def lfm2_moe(**changes: object) -> Lfm2MoeConfig:
    fields = {**SMALL, "num_hidden_layers": 3, "layer_types": CONV_AND_ATTENTION, "num_dense_layers": 1}
    experts = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
    return Lfm2MoeConfig(**{**fields, **experts, **changes})


RECURRENT_VARIANTS: dict[str, Callable[[], PretrainedConfig]] = {
    "lfm2": lfm2,
    "lfm2-biases-wide-untied": lambda: lfm2(
        conv_bias=True, conv_L_cache=4, block_auto_adjust_ff_dim=False, tie_word_embeddings=False
    ),
    "lfm2-moe": lfm2_moe,
    "lfm2-moe-plain-router": lambda: lfm2_moe(
        use_expert_bias=False, norm_topk_prob=False, num_dense_layers=0, routed_scaling_factor=0.7, conv_bias=True
    ),
}
