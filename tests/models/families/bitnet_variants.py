"""Tiny configurations of BitNet, for the parity tests."""

from collections.abc import Callable

from transformers import BitNetConfig, PretrainedConfig

from tests.helpers.checkpoints import SMALL

BITNET_VARIANTS: dict[str, Callable[[], PretrainedConfig]] = {
    "bitnet": lambda: BitNetConfig(**SMALL),
    "bitnet-tied-mha-biases": lambda: BitNetConfig(
        **SMALL | {"tie_word_embeddings": True, "num_key_value_heads": 4, "attention_bias": True, "rms_norm_eps": 1e-3}
    ),
}
