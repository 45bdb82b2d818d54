"""Tiny configurations of LFM3, for the parity tests."""

from collections.abc import Callable

from transformers import Lfm3Config, PretrainedConfig

from tests.helpers.checkpoints import SMALL

_KINDS = ["conv", "full_attention", "sliding_attention"]


def lfm3(**changes: object) -> Lfm3Config:
    fields = {**SMALL, "num_hidden_layers": 3, "layer_types": _KINDS, "head_dim": 32, "sliding_window": 6}
    fields["pad_token_id"] = None
    return Lfm3Config(**{**fields, **changes})


LFM3_VARIANTS: dict[str, Callable[[], PretrainedConfig]] = {
    "lfm3": lfm3,
    "lfm3-biased-untied-ungated": lambda: lfm3(
        attention_bias=True,
        conv_bias=True,
        conv_L_cache=3,
        tie_word_embeddings=False,
        use_attention_gate=False,
        use_sandwich_norm=False,
        norm_eps=1e-3,
    ),
}
