"""Tiny configurations of Gemma 4, for the parity tests."""

from collections.abc import Callable

from transformers import Gemma4TextConfig, Gemma4UnifiedTextConfig, PretrainedConfig

from tests.helpers.checkpoints import SMALL

SIZES = {**SMALL, "head_dim": 16, "global_head_dim": 32, "sliding_window": 6, "pad_token_id": None}
PLAIN_ROPE = {
    "full_attention": {"rope_type": "proportional", "rope_theta": 1e5, "factor": 4.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
# The last two of four layers read the keys and values of the first two.
SHARED = {
    "num_hidden_layers": 4,
    "num_kv_shared_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}


def gemma4(**changes: object) -> PretrainedConfig:
    inputs = {"hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": SMALL["vocab_size"]}
    return Gemma4TextConfig(**{**SIZES, **inputs, **SHARED, **changes})


def gemma4_unified(**changes: object) -> PretrainedConfig:
    return Gemma4UnifiedTextConfig(**{**SIZES, **changes})


GEMMA4_VARIANTS: dict[str, Callable[[], PretrainedConfig]] = {
    "gemma4": lambda: gemma4(use_double_wide_mlp=True),
    "gemma4-experts-without-inputs": lambda: gemma4(
        **{
            "hidden_size_per_layer_input": 0,
            "num_kv_shared_layers": 0,
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
        },
        **{"enable_moe_block": True, "num_experts": 5, "top_k_experts": 2, "moe_intermediate_size": 48},
        rms_norm_eps=1e-3,
    ),
    "gemma4-unified": lambda: gemma4_unified(attention_k_eq_v=True, num_global_key_value_heads=1, rms_norm_eps=1e-3),
    "gemma4-unified-untied": lambda: gemma4_unified(  # the last layer has full attention, whatever its type
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        **{"num_hidden_layers": 3, "rope_parameters": PLAIN_ROPE, "tie_word_embeddings": False},
        final_logit_softcapping=5.0,
    ),
}
