"""Tiny configurations of Kimi Linear, for the parity tests."""

from transformers import KimiLinearConfig

from tests.helpers.checkpoints import SMALL

KIMI = {
    **SMALL,
    "num_hidden_layers": 3,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "num_key_value_heads": 4,
    "linear_num_heads": 3,
    "linear_head_dim": 16,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "moe_intermediate_size": 48,
    "num_local_experts": 8,
    "num_experts_per_tok": 3,
    "pad_token_id": None,
}


def kimi_linear(**changes: object) -> KimiLinearConfig:
    return KimiLinearConfig(**{**KIMI, **changes})


KIMI_LINEAR_VARIANTS = {
    "kimi-linear": kimi_linear,
    "kimi-linear-groups-queries": lambda: kimi_linear(
        q_lora_rank=24,
        linear_head_dim=20,  # no kernel takes it
        linear_num_heads=2,
        linear_conv_kernel_dim=2,
        n_group=4,
        topk_group=2,
        n_shared_experts=2,
        norm_topk_prob=False,
        mlp_layer_types=["sparse", "dense", "sparse"],
        routed_scaling_factor=1.5,
        rms_norm_eps=1e-3,
    ),
}
