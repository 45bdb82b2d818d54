"""Tiny configurations of AFMoE, for the parity tests."""

from collections.abc import Callable

from transformers import AfmoeConfig, PretrainedConfig

from tests.helpers.checkpoints import SMALL

_EXPERTS = {
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 48,
    "head_dim": 16,
    "sliding_window": 6,
}

AFMOE_VARIANTS: dict[str, Callable[[], PretrainedConfig]] = {
    "afmoe": lambda: AfmoeConfig(
        **SMALL | _EXPERTS | {"num_hidden_layers": 4, "mup_enabled": True, "num_shared_experts": 1, "route_scale": 2.0}
    ),
    "afmoe-tied-mha-every-second": lambda: AfmoeConfig(
        **SMALL
        | _EXPERTS
        | {"tie_word_embeddings": True, "num_key_value_heads": 4, "global_attn_every_n_layers": 2}
        | {"num_dense_layers": 0, "rms_norm_eps": 1e-3}
    ),
}
