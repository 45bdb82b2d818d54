"""Tiny configurations of EXAONE MoE, for the parity tests."""

from collections.abc import Callable

from transformers import ExaoneMoeConfig, PretrainedConfig

from tests.helpers.checkpoints import LLAMA3_ROPE, SMALL

_EXPERTS = {
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 48,
    "head_dim": 16,
    "sliding_window": 6,
}

EXAONE_MOE_VARIANTS: dict[str, Callable[[], PretrainedConfig]] = {
    "exaone-moe": lambda: ExaoneMoeConfig(**SMALL | _EXPERTS | {"num_hidden_layers": 4}),
    "exaone-moe-tied-groups-llama3": lambda: ExaoneMoeConfig(
        **SMALL
        | _EXPERTS
        | {"tie_word_embeddings": True, "num_key_value_heads": 4, "rms_norm_eps": 1e-3, "sliding_window_pattern": 2}
        | {"n_group": 4, "topk_group": 2, "num_shared_experts": 2, "rope_parameters": LLAMA3_ROPE}
    ),
}
