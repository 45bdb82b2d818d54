"""Tiny configurations of multimodal models, whose language model alone is served."""

from collections.abc import Callable

from transformers import (
    Gemma3Config,
    Kimi_K25Config,
    Lfm2VlConfig,
    Llama4Config,
    Mistral3Config,
    PretrainedConfig,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen3_5Config,
    Qwen3_5MoeConfig,
    Qwen3VLConfig,
    Qwen3VLMoeConfig,
)

from tests.helpers.checkpoints import SMALL, mistral_config
from tests.models.families.classic_variants import gemma3
from tests.models.families.deepseek_variants import deepseek_v3
from tests.models.families.recurrent_variants import DELTA, EXPERTS, lfm2
from tests.models.families.variants import llama4, ministral3

VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "image_size": 8,
    "patch_size": 4,
}


def gemma3_multimodal(**changes: object) -> PretrainedConfig:
    text = gemma3(num_hidden_layers=2, **changes).to_dict()
    return Gemma3Config(text_config=text, vision_config=VISION, mm_tokens_per_image=4, pad_token_id=None)


def mistral3_multimodal(text: PretrainedConfig, **changes: object) -> PretrainedConfig:
    return Mistral3Config(text_config=text.to_dict(), vision_config={"model_type": "pixtral", **VISION}, **changes)


def llama4_multimodal(**changes: object) -> PretrainedConfig:
    vision = {**VISION, "vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16}
    return Llama4Config(text_config=llama4(**changes).to_dict(), vision_config=vision)


# Vision of the Qwen models, whose fields have names of their own.
_QWEN_VISION = {
    **VISION,
    "depth": 1,
    "num_heads": 1,
    "embed_dim": 16,
    "out_hidden_size": 64,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [],
    "fullatt_block_indexes": [0],
}
# Rotary pairs of the three axes: time, height and width, in turn or after one another.
AXES = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 2, 2]}
AXES_OF_PARTS = {**AXES, "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.25}
_MOE = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 48}


def qwen_vl(kind: type[PretrainedConfig], *, tie_word_embeddings: bool = False, **text: object) -> PretrainedConfig:
    text = {**SMALL, "rope_parameters": AXES, **text}
    return kind(text_config=text, vision_config=_QWEN_VISION, tie_word_embeddings=tie_word_embeddings)


def qwen35_multimodal(kind: type[PretrainedConfig], **text: object) -> PretrainedConfig:
    return qwen_vl(kind, **{**DELTA, "rope_parameters": AXES_OF_PARTS, **text})


def kimi_k25(**changes: object) -> PretrainedConfig:
    vision = {**VISION, "pos_emb_height": 4, "pos_emb_width": 4}
    return Kimi_K25Config(text_config=deepseek_v3(**changes).to_dict(), vision_config=vision, tie_word_embeddings=False)


def lfm2_vl(**changes: object) -> PretrainedConfig:
    vision = {"model_type": "siglip2_vision_model", **VISION, "num_patches": 4}
    return Lfm2VlConfig(text_config=lfm2(**changes).to_dict(), vision_config=vision, projector_hidden_size=16)


MULTIMODAL_VARIANTS: dict[str, Callable[[], PretrainedConfig]] = {
    "gemma3-multimodal": gemma3_multimodal,
    "gemma3-multimodal-mixed": lambda: gemma3_multimodal(layer_types=["sliding_attention", "full_attention"]),
    "kimi-k2.5": kimi_k25,
    "lfm2-vl": lfm2_vl,
    "llama4-multimodal": lambda: llama4_multimodal(num_hidden_layers=2),
    "llama4-multimodal-mixed": lambda: llama4_multimodal(interleave_moe_layer_step=2, attention_chunk_size=16),
    "mistral3-multimodal": lambda: mistral3_multimodal(mistral_config(sliding_window=None), tie_word_embeddings=False),
    "mistral3-multimodal-ministral3": lambda: mistral3_multimodal(ministral3(), tie_word_embeddings=True),
    "qwen2-vl-tied": lambda: qwen_vl(Qwen2VLConfig, tie_word_embeddings=True),
    "qwen2.5-vl": lambda: qwen_vl(Qwen2_5_VLConfig),
    "qwen3-vl": lambda: qwen_vl(Qwen3VLConfig, head_dim=16, rope_parameters={**AXES, "mrope_interleaved": True}),
    "qwen3-vl-moe": lambda: qwen_vl(Qwen3VLMoeConfig, head_dim=16, **_MOE),
    "qwen3.5-multimodal": lambda: qwen35_multimodal(Qwen3_5Config),
    "qwen3.5-moe-multimodal": lambda: qwen35_multimodal(Qwen3_5MoeConfig, **EXPERTS),
}
