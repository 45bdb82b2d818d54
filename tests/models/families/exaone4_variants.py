"""Tiny configurations of EXAONE 4, for the parity tests."""

from collections.abc import Callable

from transformers import Exaone4Config, PretrainedConfig

from tests.helpers.checkpoints import LLAMA3_ROPE, SMALL

EXAONE4_VARIANTS: dict[str, Callable[[], PretrainedConfig]] = {
    "exaone4": lambda: Exaone4Config(**SMALL | {"num_hidden_layers": 4, "sliding_window": 6, "head_dim": 16}),
    "exaone4-full-tied-llama3": lambda: Exaone4Config(
        **SMALL
        | {"sliding_window": None, "layer_types": ["full_attention"] * 2, "rope_parameters": LLAMA3_ROPE}
        | {"tie_word_embeddings": True, "num_key_value_heads": 4, "rms_norm_eps": 1e-3}
    ),
}
