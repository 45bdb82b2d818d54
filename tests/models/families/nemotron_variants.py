"""Tiny configurations of Nemotron, for the parity tests."""

from collections.abc import Callable

from transformers import NemotronConfig, PretrainedConfig

from tests.helpers.checkpoints import SMALL

NEMOTRON_VARIANTS: dict[str, Callable[[], PretrainedConfig]] = {
    "nemotron": lambda: NemotronConfig(**SMALL),
    "nemotron-tied-mha-biases-head-dim": lambda: NemotronConfig(
        **SMALL
        | {"tie_word_embeddings": True, "num_key_value_heads": 4, "head_dim": 32, "norm_eps": 1e-3}
        | {"attention_bias": True, "mlp_bias": True}
        | {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e5, "factor": 4.0, "partial_rotary_factor": 0.25}}
    ),
}
