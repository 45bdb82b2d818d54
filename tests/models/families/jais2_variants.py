"""Tiny configurations of Jais 2, for the parity tests."""

from collections.abc import Callable

from transformers import Jais2Config, PretrainedConfig

from tests.helpers.checkpoints import SMALL

JAIS2_VARIANTS: dict[str, Callable[[], PretrainedConfig]] = {
    "jais2": lambda: Jais2Config(**SMALL),
    "jais2-tied-mha-no-biases": lambda: Jais2Config(
        **SMALL
        | {"tie_word_embeddings": True, "num_key_value_heads": 4, "head_dim": 32, "layer_norm_eps": 1e-3}
        | {"attention_bias": False, "mlp_bias": False}
    ),
}
