"""Tiny configurations of Apertus, for the parity tests."""

from collections.abc import Callable

from transformers import ApertusConfig, PretrainedConfig

from tests.helpers.checkpoints import LLAMA3_ROPE, SMALL

APERTUS_VARIANTS: dict[str, Callable[[], PretrainedConfig]] = {
    "apertus": lambda: ApertusConfig(**SMALL | {"rope_parameters": LLAMA3_ROPE}),
    "apertus-tied-mha-biases": lambda: ApertusConfig(
        **SMALL
        | {"tie_word_embeddings": True, "num_key_value_heads": 4, "attention_bias": True, "rms_norm_eps": 1e-3}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    ),
}
