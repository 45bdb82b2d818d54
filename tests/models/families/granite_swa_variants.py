"""Tiny configurations of Granite SWA, for the parity tests."""

from collections.abc import Callable

from transformers import GraniteSWAConfig, PretrainedConfig

from tests.helpers.checkpoints import SMALL

_SCALES = {"embedding_multiplier": 2.0, "logits_scaling": 0.8, "residual_multiplier": 0.5, "attention_multiplier": 0.3}

GRANITE_SWA_VARIANTS: dict[str, Callable[[], PretrainedConfig]] = {
    "granite-swa": lambda: GraniteSWAConfig(**SMALL | {"sliding_window": 6, "logits_scaling": 0.8}),
    "granite-swa-untied-scales-nope": lambda: GraniteSWAConfig(
        **SMALL
        | _SCALES
        | {"sliding_window": 6, "tie_word_embeddings": False, "layer_rope_theta": [0, 10000.0], "rms_norm_eps": 1e-3}
    ),
}
