"""Tiny configurations of dots.llm1, for the parity tests."""

from collections.abc import Callable

from transformers import Dots1Config, PretrainedConfig

from tests.helpers.checkpoints import SMALL

_EXPERTS = {"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 48, "n_shared_experts": 1}

DOTS1_VARIANTS: dict[str, Callable[[], PretrainedConfig]] = {
    "dots1": lambda: Dots1Config(**SMALL | _EXPERTS | {"norm_topk_prob": True, "first_k_dense_replace": 1}),
    "dots1-tied-windows-groups": lambda: Dots1Config(
        **SMALL
        | _EXPERTS
        | {"tie_word_embeddings": True, "sliding_window": 6, "max_window_layers": 1, "rms_norm_eps": 1e-3}
        | {"n_group": 4, "topk_group": 2, "n_shared_experts": 2, "attention_bias": True, "routed_scaling_factor": 1.5}
    ),
}
