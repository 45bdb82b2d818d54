"""Tiny configurations of ERNIE 4.5 and its MoE, for the parity tests."""

from collections.abc import Callable

from transformers import Ernie4_5_MoeConfig, Ernie4_5Config, PretrainedConfig

from tests.helpers.checkpoints import SMALL

_EXPERTS = {"moe_num_experts": 8, "moe_k": 3, "moe_intermediate_size": 48, "moe_num_shared_experts": 1}

ERNIE4_5_VARIANTS: dict[str, Callable[[], PretrainedConfig]] = {
    "ernie4-5": lambda: Ernie4_5Config(**SMALL | {"head_dim": 32}),
    "ernie4-5-biases-untied-mha": lambda: Ernie4_5Config(
        **SMALL
        | {"use_bias": True, "tie_word_embeddings": False, "num_key_value_heads": 4, "head_dim": 16}
        | {"rms_norm_eps": 1e-3, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    ),
    "ernie4-5-moe": lambda: Ernie4_5_MoeConfig(**SMALL | _EXPERTS),
    "ernie4-5-moe-untied-every-second-floor": lambda: Ernie4_5_MoeConfig(
        **SMALL
        | _EXPERTS
        | {"num_hidden_layers": 4, "moe_layer_interval": 2, "tie_word_embeddings": False, "moe_norm_min": 0.7}
        | {"moe_num_shared_experts": 0, "rms_norm_eps": 1e-3}
    ),
}
