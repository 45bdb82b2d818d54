"""Tiny configurations of MiniMax M2, for the parity tests."""

from collections.abc import Callable

from transformers import MiniMaxM2Config, PretrainedConfig

from tests.helpers.checkpoints import SMALL

_EXPERTS = {"num_local_experts": 8, "num_experts_per_tok": 3, "head_dim": 32, "rotary_dim": 16}

MINIMAX_M2_VARIANTS: dict[str, Callable[[], PretrainedConfig]] = {
    "minimax-m2": lambda: MiniMaxM2Config(**SMALL | _EXPERTS),
    "minimax-m2-tied-mha": lambda: MiniMaxM2Config(
        **SMALL | _EXPERTS | {"tie_word_embeddings": True, "num_key_value_heads": 4, "rms_norm_eps": 1e-3}
    ),
}
