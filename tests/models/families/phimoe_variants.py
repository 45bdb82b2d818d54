"""Tiny configurations of Phi-MoE, for the parity tests."""

from collections.abc import Callable

from transformers import PhimoeConfig, PretrainedConfig

from tests.helpers.checkpoints import SMALL

_EXPERTS = {"num_local_experts": 8, "router_jitter_noise": 0.2}  # so much that some logits are near the best
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0 + 0.25 * pair for pair in range(8)],
    "long_factor": [2.0] * 8,
    "short_mscale": 1.25,
    "long_mscale": 1.25,
    "original_max_position_embeddings": 256,
}

PHIMOE_VARIANTS: dict[str, Callable[[], PretrainedConfig]] = {
    "phimoe": lambda: PhimoeConfig(
        **SMALL | _EXPERTS | {"rope_parameters": _LONGROPE, "attention_bias": True, "lm_head_bias": True}
    ),
    "phimoe-tied-mha": lambda: PhimoeConfig(
        **SMALL | _EXPERTS | {"tie_word_embeddings": True, "num_key_value_heads": 4, "rms_norm_eps": 1e-3}
    ),
}
