"""MULTIMODAL_MODELS: a tiny configuration of every multimodal class; SPARSE: sections that leave out fields."""

import functools
from collections.abc import Callable

from transformers import PretrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
)

from models.families.registry import MULTIMODAL
from tests.helpers.checkpoints import SMALL, llama_config, qwen2_config
from tests.models.families.deepseek_variants import LATENT
from tests.models.families.gemma3n_variants import GEMMA3N_VARIANTS
from tests.models.families.lfm3_variants import lfm3
from tests.models.families.multimodal_variants import AXES, VISION
from tests.models.families.state_space_variants import nemotron_h

# Sizes of the parts that are left out, by the names that configurations have for them.
_TINY = {
    **dict.fromkeys(("hidden_size", "intermediate_size", "embed_dim", "d_model", "hidden_dim", "output_dim"), 16),
    **dict.fromkeys(("encoder_ffn_dim", "mlp_dim", "head_dim", "num_position_embeddings", "vocab_size"), 16),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "encoder_layers", "depth"), 1),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "num_heads", "encoder_attention_heads"), 1),
    **dict.fromkeys(("image_size", "max_img_size", "num_mel_bins", "max_source_positions"), 8),
    "base_channels": 32,
    "channel_multiplier": [1],
    "deepstack_visual_indexes": [],
    "depths": [1, 1],
    "downsampling_ratios": [2],
    "fullatt_block_indexes": [0],
    "global_attn_indexes": [0],
    "out_channels": 64,
    "out_hidden_size": 64,
    "patch_size": 4,
    "window_size": 0,
}
# Fields of language models whose defaults do not fit tiny sizes.
_AXES = {"rope_parameters": AXES}
_PARTLY = {"rope_parameters": {**AXES, "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.5}}
_ALPHA = {"rope_type": "dynamic", "rope_theta": 1e4, "alpha": 50.0, "factor": 1.0, "mrope_section": [2, 2, 2, 2]}
_DELTA = {"head_dim": 32, "num_hidden_layers": 4, "linear_num_key_heads": 2, "linear_num_value_heads": 4}
_FEW_EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
_HEADS = {"head_dim": 16, "global_head_dim": 32}
_ROUTED = {"n_routed_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "n_shared_experts": 1}
_TEXT: dict[str, dict[str, object]] = {
    **dict.fromkeys(("qwen2_vl_text", "qwen2_5_vl_text", "qwen2_5_omni_text"), _AXES),
    **dict.fromkeys(("glm4v_text", "glm_ocr_text"), _PARTLY),
    "gemma4_text": {**_HEADS, "hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 128},
    "gemma4_unified_text": _HEADS,
    "deepseek_v3": {**LATENT, "n_group": 4, "topk_group": 2},
    "emu3_text_model": {"pad_token_id": 0},
    "granite_docling_text": {"pad_token_id": 0},
    "deepseek_ocr2_text": {**_ROUTED, "mlp_layer_types": ["dense", "sparse"]},
    "glm4v_moe_text": {**_PARTLY, **_ROUTED},
    "glm_ocr_text": {**_PARTLY, "head_dim": 16},
    "hunyuan_vl_text": {"head_dim": 16, "rope_parameters": _ALPHA},
    "lfm3": lfm3().to_dict(),
    "nemotron_h": nemotron_h().to_dict(),
    "paddleocr_vl_text": {**_AXES, "head_dim": 16},
    "qwen3_5_text": _DELTA,
    "qwen3_5_moe_text": {**_DELTA, **_FEW_EXPERTS, "shared_expert_intermediate_size": 32},
    "qwen3_omni_moe_text": {**_AXES, **_FEW_EXPERTS, "head_dim": 16},
    "qwen3_vl_text": {**_AXES, "head_dim": 16},
    "qwen3_vl_moe_text": {**_AXES, **_FEW_EXPERTS},
}
# Fields of the whole whose defaults are large, or do not fit these language models.
_WHOLE: dict[str, dict[str, object]] = {
    "emu3": {"vocabulary_map": {"<image>": 3}},
    "granite4_vision": {
        "deepstack_layer_map": [],
        "spatial_target_layers": [],
        "downsample_rate": "1/2",
        "vision_config": {**VISION, "model_type": "clip_vision_model", "hidden_size": 64},
    },
    "nemotron_h_omni": {"projector_hidden_size": 16, "vision_hidden_size": 16},
}
# The whole of an Omni model speaks, too: its thinker answers, and is a class of its own.
WITH_SPEECH = ("Qwen2_5OmniForConditionalGeneration", "Qwen3OmniMoeForConditionalGeneration")
# The tower needs another package, timm: language models of these classes.
WITH_TIMM: dict[str, Callable[[], PretrainedConfig]] = {
    "FastVlmForConditionalGeneration": qwen2_config,
    "Gemma3nForConditionalGeneration": GEMMA3N_VARIANTS["gemma3n"],
    "PerceptionLMForConditionalGeneration": llama_config,
}


def _tiny(kind: type[PretrainedConfig]) -> PretrainedConfig:
    usual = kind()
    text = usual.get_text_config()
    parts = {}
    for name in usual.sub_configs:
        part = getattr(usual, name, None)
        if name != "text_config" and part is not None:
            parts[name] = _shrunk(part.to_dict())
    if "adaptor_config" in parts:
        parts["adaptor_config"]["hidden_size"] = SMALL["hidden_size"]
    small = type(text)(**{**SMALL, **_TEXT.get(text.model_type, {})})
    return kind(**{**parts, **_WHOLE.get(kind.model_type, {}), "text_config": small.to_dict()})


def _shrunk(fields: dict[str, object]) -> dict[str, object]:
    inner = {
        name: _shrunk(part) for name, part in fields.items() if name.endswith("_config") and isinstance(part, dict)
    }
    kinds = {"layer_types": None} if "layer_types" in fields else {}  # as many as there were layers
    return {**fields, **{name: size for name, size in _TINY.items() if name in fields}, **inner, **kinds}


def _models() -> dict[str, Callable[[], PretrainedConfig]]:
    makers: dict[str, Callable[[], PretrainedConfig]] = {}
    known = (*MODEL_FOR_MULTIMODAL_LM_MAPPING.items(), *MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING.items())
    for kind, model in known:
        if model.__name__ in MULTIMODAL and model.__name__ not in (*WITH_SPEECH, *WITH_TIMM):
            makers.setdefault(model.__name__, functools.partial(_tiny, kind))
    return makers


MULTIMODAL_MODELS = _models()
# Sections of language models, by class; the first four as the hub has them.
SPARSE: dict[str, dict[str, object]] = {
    "LlavaForConditionalGeneration": {  # llava-1.5-7b-hf
        "_name_or_path": "lmsys/vicuna-7b-v1.5",
        "architectures": ["LlamaForCausalLM"],
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "rms_norm_eps": 1e-05,
        "torch_dtype": "float16",
        "vocab_size": 32064,
    },
    "LlavaNextForConditionalGeneration": {
        "architectures": ["MistralForCausalLM"],
        "intermediate_size": 14336,
        "max_position_embeddings": 32768,
        "model_type": "mistral",
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "vocab_size": 32064,
    },
    "Qwen2AudioForConditionalGeneration": {
        "intermediate_size": 11008,
        "max_position_embeddings": 8192,
        "model_type": "qwen2",
        "rope_theta": 10000,
        "rms_norm_eps": 1e-05,
        "vocab_size": 156032,
    },
    "Idefics3ForConditionalGeneration": {
        "architectures": ["VLlama3ForCausalLM"],
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "model_type": "llama",
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 8.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "vocab_size": 128259,
    },
    "Qwen2_5OmniThinkerForConditionalGeneration": {"model_type": "qwen2_5_omni_text"},
    "Qwen2VLForConditionalGeneration": {
        "model_type": "qwen2_vl_text",
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    },
    "Mistral3ForConditionalGeneration": {"model_type": "ministral3", "hidden_size": 2048},
    "Cohere2VisionForConditionalGeneration": {"model_type": "cohere2", "num_hidden_layers": 8},
    "Qwen3VLMoeForConditionalGeneration": {"model_type": "qwen3_vl_moe_text", "num_local_experts": 16},
}
