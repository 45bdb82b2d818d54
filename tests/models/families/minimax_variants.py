"""Tiny configurations with lightning attention, for the parity tests."""

from collections.abc import Callable

from transformers import MiniMaxConfig, PretrainedConfig

from tests.helpers.checkpoints import SMALL


def minimax(**changes: object) -> MiniMaxConfig:
    layers = {"num_hidden_layers": 3, "layer_types": ["linear_attention", "full_attention", "linear_attention"]}
    experts = {"num_local_experts": 5, "num_experts_per_tok": 2}
    # Blocks of transformers' computation, which change nothing else.
    return MiniMaxConfig(**{**SMALL, **layers, **experts, "block_size": 8, **changes})


MINIMAX_VARIANTS: dict[str, Callable[[], PretrainedConfig]] = {
    "minimax": lambda: minimax(
        full_attn_alpha_factor=1.7, linear_attn_alpha_factor=1.7, mlp_alpha_factor=1.7, rms_norm_eps=1e-3
    ),
    "minimax-scales-tied": lambda: minimax(
        num_hidden_layers=4,
        layer_types=None,
        full_attn_alpha_factor=1.5,
        full_attn_beta_factor=0.7,
        linear_attn_alpha_factor=0.8,
        linear_attn_beta_factor=1.2,
        mlp_alpha_factor=1.3,
        mlp_beta_factor=0.6,
        head_dim=32,
        tie_word_embeddings=True,
    ),
}
