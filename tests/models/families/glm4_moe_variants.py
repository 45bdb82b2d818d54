"""Tiny configurations of GLM-4 MoE, for the parity tests."""

from collections.abc import Callable

from transformers import Glm4MoeConfig, Glm4MoeLiteConfig, PretrainedConfig

from tests.helpers.checkpoints import SMALL

_EXPERTS = {"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 48, "num_mtp_layers": 0}
_LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "q_lora_rank": 48,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "v_head_dim": 16,
}

GLM4_MOE_VARIANTS: dict[str, Callable[[], PretrainedConfig]] = {
    "glm4-moe": lambda: Glm4MoeConfig(**SMALL | _EXPERTS | {"attention_bias": True, "routed_scaling_factor": 1.5}),
    "glm4-moe-norms-tied-groups": lambda: Glm4MoeConfig(
        **SMALL
        | _EXPERTS
        | {
            "use_qk_norm": True,
            "tie_word_embeddings": True,
            "head_dim": 32,
            "rms_norm_eps": 1e-3,
            "n_shared_experts": 2,
        }
        | {"num_hidden_layers": 3, "n_group": 4, "topk_group": 2}
    ),
    "glm4-moe-lite": lambda: Glm4MoeLiteConfig(**SMALL | _EXPERTS | _LATENT),
    "glm4-moe-lite-tied-three": lambda: Glm4MoeLiteConfig(
        **SMALL
        | _EXPERTS
        | _LATENT
        | {"mlp_layer_types": ["dense", "dense", "sparse"], "num_hidden_layers": 3, "tie_word_embeddings": True}
        | {"rms_norm_eps": 1e-3, "n_shared_experts": 2, "routed_scaling_factor": 1.2}
    ),
}
