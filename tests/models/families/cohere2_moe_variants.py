"""Tiny configurations of Cohere 2 with experts, for the parity tests."""

from collections.abc import Callable

from transformers import Cohere2MoeConfig, PretrainedConfig

from tests.helpers.checkpoints import SMALL

_TINY = SMALL | {"head_dim": 16, "logit_scale": 0.8, "sliding_window": 6, "num_hidden_layers": 4, "pad_token_id": None}
_EXPERTS = {"num_experts": 8, "num_experts_per_tok": 3, "num_shared_experts": 2, "expert_selection_fn": "sigmoid"}

COHERE2_MOE_VARIANTS: dict[str, Callable[[], PretrainedConfig]] = {
    "cohere2-moe": lambda: Cohere2MoeConfig(
        **_TINY | _EXPERTS | {"first_k_dense_replace": 1, "prefix_dense_intermediate_size": 80}
    ),
    "cohere2-moe-untied-rms-softmax-sum": lambda: Cohere2MoeConfig(
        **_TINY
        | {"tie_word_embeddings": False, "rms_norm_eps": 1e-3, "num_experts": 4, "num_shared_experts": 1}
        | {"shared_expert_combination_strategy": "sum", "sliding_window_pattern": 2, "first_k_dense_replace": 2}
        | {"prefix_dense_sliding_window_pattern": 2, "attention_bias": True}
    ),
}
