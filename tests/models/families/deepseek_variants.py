"""Tiny configurations with latent attention, for the parity tests."""

from collections.abc import Callable

from transformers import DeepseekV2Config, DeepseekV3Config, PretrainedConfig

from tests.helpers.checkpoints import SMALL

LATENT = {
    **SMALL,
    "num_key_value_heads": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 48,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "moe_intermediate_size": 48,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.5,
    "rms_norm_eps": 1e-4,  # not that of the latents
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 32,
    "mscale": 0.5,
    "mscale_all_dim": 0.7,
}
ODD = {"q_lora_rank": 24, "qk_nope_head_dim": 24, "v_head_dim": 20}  # no multiples of 16: matrices that no kernel takes


def deepseek_v2(**changes: object) -> DeepseekV2Config:
    return DeepseekV2Config(**{**LATENT, "num_experts_per_tok": 2, **changes})


def deepseek_v3(**changes: object) -> DeepseekV3Config:
    return DeepseekV3Config(**{**LATENT, "n_group": 4, "topk_group": 2, **changes})


LATENT_VARIANTS: dict[str, Callable[[], PretrainedConfig]] = {
    "deepseek-v2": lambda: deepseek_v2(q_lora_rank=None),
    "deepseek-v2-groups-yarn": lambda: deepseek_v2(
        **ODD, topk_method="group_limited_greedy", n_group=4, topk_group=2, n_shared_experts=1, rope_parameters=YARN
    ),
    "deepseek-v3": lambda: deepseek_v3(rope_parameters=YARN, attention_bias=True),
    "deepseek-v3-plain": lambda: deepseek_v3(
        q_lora_rank=None, n_group=1, topk_group=1, norm_topk_prob=False, first_k_dense_replace=0
    ),
}
