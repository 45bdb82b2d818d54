"""Tiny configurations of multimodal models, whose language model alone is served."""

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


def gemma3_multimodal(**changes: object) -> PretrainedConfig:
    text = gemma3(num_hidden_layers=2, **changes).to_dict()
    return Gemma3Config(text_config=text, vision_config=_VISION, mm_tokens_per_image=4, pad_token_id=None)


def mistral3_multimodal(text: PretrainedConfig, **changes: object) -> PretrainedConfig:
    return Mistral3Config(text_config=text.to_dict(), vision_config={"model_type": "pixtral", **_VISION}, **changes)


def llama4_multimodal(**changes: object) -> PretrainedConfig:
    vision = {**_VISION, "vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16}
    return Llama4Config(text_config=llama4(**changes).to_dict(), vision_config=vision)


MULTIMODAL_VARIANTS: dict[str, Callable[[], PretrainedConfig]] = {
    "gemma3-multimodal": gemma3_multimodal,
    "gemma3-multimodal-mixed": lambda: gemma3_multimodal(layer_types=["sliding_attention", "full_attention"]),
    "llama4-multimodal": lambda: llama4_multimodal(num_hidden_layers=2),
    "llama4-multimodal-mixed": lambda: llama4_multimodal(interleave_moe_layer_step=2, attention_chunk_size=16),
    "mistral3-multimodal": lambda: mistral3_multimodal(mistral_config(sliding_window=None), tie_word_embeddings=False),
    "mistral3-multimodal-ministral3": lambda: mistral3_multimodal(ministral3(), tie_word_embeddings=True),
}
