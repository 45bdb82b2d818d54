"""Tiny configurations of RecurrentGemma, for the parity tests."""

from transformers import RecurrentGemmaConfig

from tests.helpers.checkpoints import SMALL


def recurrent_gemma(**changes: object) -> RecurrentGemmaConfig:
    fields = {
        **{
            name: value
            for name, value in SMALL.items()
            if name not in ("max_position_embeddings", "tie_word_embeddings")
        },
        "num_hidden_layers": 3,
        "block_types": ["recurrent", "attention"],
        "num_key_value_heads": 1,
        "attention_window_size": 6,
        "pad_token_id": None,
    }
    return RecurrentGemmaConfig(**{**fields, **changes})


RECURRENT_GEMMA_VARIANTS = {
    "recurrent-gemma": recurrent_gemma,
    "recurrent-gemma-untied": lambda: recurrent_gemma(
        block_types=["recurrent", "recurrent", "attention"],
        num_attention_heads=2,
        intermediate_size=200,
        conv1d_width=2,
        num_key_value_heads=2,
        attention_bias=True,
        logits_soft_cap=5.0,
        rms_norm_eps=1e-3,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.25},
    ),
}
