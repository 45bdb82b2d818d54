"""Tiny configurations of Hunyuan, dense and with experts, and of Hy3, for the parity tests."""

from collections.abc import Callable

from transformers import HunYuanDenseV1Config, HunYuanMoEV1Config, HYV3Config, PretrainedConfig

from tests.helpers.checkpoints import SMALL

_ALPHA = {"rope_type": "dynamic", "rope_theta": 10000.0, "alpha": 50.0, "factor": 1.0}
_EXPERTS = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 48, "head_dim": 16}

HUNYUAN_VARIANTS: dict[str, Callable[[], PretrainedConfig]] = {
    "hunyuan": lambda: HunYuanDenseV1Config(**SMALL | {"head_dim": 32, "rope_parameters": _ALPHA}),
    "hunyuan-tied-mha-biases": lambda: HunYuanDenseV1Config(
        **SMALL
        | {"tie_word_embeddings": True, "num_key_value_heads": 4, "attention_bias": True, "rms_norm_eps": 1e-3}
        | {"head_dim": 16}
    ),
    "hunyuan-moe": lambda: HunYuanMoEV1Config(
        **SMALL | {"num_experts": 8, "moe_topk": 3, "head_dim": 16, "rope_parameters": _ALPHA}
    ),
    "hunyuan-moe-tied-biases-topk-by-layer": lambda: HunYuanMoEV1Config(
        **SMALL
        | {"tie_word_embeddings": True, "attention_bias": True, "rms_norm_eps": 1e-3, "num_key_value_heads": 4}
        | {"num_experts": 4, "moe_topk": [1, 2], "head_dim": 32}
    ),
    "hy-v3": lambda: HYV3Config(**SMALL | _EXPERTS),
    "hy-v3-tied-two-shared": lambda: HYV3Config(
        **SMALL
        | _EXPERTS
        | {"tie_word_embeddings": True, "num_shared_experts": 2, "router_scaling_factor": 1.5, "rms_norm_eps": 1e-3}
        | {"num_hidden_layers": 3, "mlp_layer_types": ["dense", "sparse", "dense"]}
    ),
}
