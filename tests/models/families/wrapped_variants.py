"""Tiny configurations of models that see, of which only the language model is served."""

from collections.abc import Callable

from transformers import Gemma3Config, Llama4Config, Mistral3Config, PretrainedConfig

from tests.helpers.checkpoints import mistral_config
from tests.models.families.classic_variants import gemma3
from tests.models.families.variants import llama4, ministral3

_VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "image_size": 8,
    "patch_size": 4,
}


def gemma3_wrapped(**changes: object) -> PretrainedConfig:
    text = gemma3(num_hidden_layers=2, **changes).to_dict()
    return Gemma3Config(text_config=text, vision_config=_VISION, mm_tokens_per_image=4, pad_token_id=None)


def mistral3_wrapped(text: PretrainedConfig, **changes: object) -> PretrainedConfig:
    return Mistral3Config(text_config=text.to_dict(), vision_config={"model_type": "pixtral", **_VISION}, **changes)


def llama4_wrapped(**changes: object) -> PretrainedConfig:
    vision = {**_VISION, "vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16}
    return Llama4Config(text_config=llama4(**changes).to_dict(), vision_config=vision)


WRAPPED_VARIANTS: dict[str, Callable[[], PretrainedConfig]] = {
    "gemma3-wrapped": gemma3_wrapped,
    "gemma3-wrapped-mixed": lambda: gemma3_wrapped(layer_types=["sliding_attention", "full_attention"]),
    "llama4-wrapped": lambda: llama4_wrapped(num_hidden_layers=2),
    "llama4-wrapped-mixed": lambda: llama4_wrapped(interleave_moe_layer_step=2, attention_chunk_size=16),
    "mistral3-wrapped": lambda: mistral3_wrapped(mistral_config(sliding_window=None), tie_word_embeddings=False),
    "mistral3-wrapped-ministral3": lambda: mistral3_wrapped(ministral3(), tie_word_embeddings=True),
}
