"""Multimodal checkpoints: only their language model is served."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from models.config.hf_config import HFConfig, quote_value
from models.families.name_map import IGNORE, Rules, To
from models.families.registry import ARCHITECTURES, FAMILIES, MULTIMODAL, USUAL_BODY, Family, family_of, unsupported

_NOTE = (
    "Text only: the checkpoint's encoders of images, video and audio are left out, and such inputs are not supported"
)
# Sections of config.json that describe the language model, the inner ones last.
_SECTIONS = ("thinker_config", "text_config", "llm_config")
# Prefixes that checkpoints have used for the body of a language model, which is "model." by itself.
_BODIES = (
    *("model.", "language_model.model.", "text_model.model.", "thinker.model.", "model.text_model."),
    *("thinker.model.language_model.", USUAL_BODY),
)
# Parts that are left out: encoders, and what fits their outputs to the language model. None is a language model's.
_LEFT_OUT = (
    *("vision_tower", "vision_model", "vision_encoder", "visual", "high_res_vision_model", "vqmodel", "encoder"),
    *(
        "vit",
        "image_tower",
        "video_tower",
        "audio_tower",
        "sound_encoder",
        "acoustic_tokenizer_encoder",
        "audio_encoder",
        "semantic_tokenizer_encoder",
    ),
    *("multi_modal_projector", "mm_projector", "projector", "vision_projection", "connector", "aligner", "merger"),
    *("high_res_vision_neck", "high_res_vision_proj", "visual_embeddings_table", "speech_embeddings"),
    *("embed_vision", "embed_audio", "vision_embedder"),
    *("generation_embeddings", "generation_aligner", "generation_head", "talker", "token2wav", "code2wav", "mtp"),
    *("sam_model", "qwen2_model", "mlp_AR", "mlp1", "sound_projection", "layerwise_projectors", "spatial_projectors"),
)
_LEFT_OUT_TENSORS = ("image_newline", "high_res_vision_alpha", "view_seperator")
# Language models by the type that a section states, if it names no class; transformers knows the others.
_BY_TYPE = {
    "deepseek_ocr2_text": "DeepseekV2ForCausalLM",
    "emu3_text_model": "LlamaForCausalLM",
    "glm4v_moe_text": "Glm4MoeForCausalLM",
    "granite4_vision_text": "GraniteForCausalLM",
    "granite_docling_text": "GraniteForCausalLM",
    "hunyuan_vl_text": "HunYuanDenseV1ForCausalLM",
    "paddleocr_vl_text": "Ernie4_5ForCausalLM",
    "glm4v_text": "Glm4ForCausalLM",
    "glm_ocr_text": "Glm4ForCausalLM",
    "kimi_k2": "DeepseekV3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen2_5_omni_text": "Qwen2ForCausalLM",
    "qwen2_5_vl_text": "Qwen2ForCausalLM",
    "qwen2_vl_text": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_omni_moe_text": "Qwen3MoeForCausalLM",
    "qwen3_vl_moe_text": "Qwen3MoeForCausalLM",
    "qwen3_vl_text": "Qwen3ForCausalLM",
}


def find_family(config: HFConfig) -> tuple[Family, HFConfig]:
    """Return the family that computes a checkpoint's text, and the configuration of its language model.

    A multimodal class may stand over a flat configuration, and the class of a language model over a nested one. Raises
    UnsupportedModelError if no family computes the language model.
    """
    architecture = config.architecture()
    if architecture not in ARCHITECTURES:
        raise unsupported(architecture)
    outer, text = _sections(config)
    if architecture not in MULTIMODAL and outer is text:
        return family_of(architecture), config
    name = _language_model(architecture, text, is_nested=outer is not text)
    # A class's own family may know fields that its checkpoints leave out.
    usual = ARCHITECTURES[architecture].wraps or architecture
    family = family_of(architecture if name == usual else name)
    return language_model_of(family, ARCHITECTURES[architecture].body), _completed(_merged(outer, text), text)


def language_model_config(config: HFConfig) -> HFConfig:
    """Return the configuration of a checkpoint's language model."""
    outer, text = _sections(config)
    return config if outer is text else _merged(outer, text)


def _sections(config: HFConfig) -> tuple[HFConfig, HFConfig]:
    """Return the object around the language model's, and the language model's; the same if nothing is nested."""
    outer = inner = config
    for name in _SECTIONS:
        if isinstance(inner.fields.get(name), dict):
            outer, inner = inner, inner.section(name)
    return (config, config) if inner is config else (dataclasses.replace(config, fields=outer.fields), inner)


def _language_model(architecture: str, text: HFConfig, *, is_nested: bool) -> str:
    """Return the class of the language model, by what its section says, else by what `architecture` usually wraps."""
    usual = ARCHITECTURES[architecture].wraps
    if usual is None:
        return architecture
    if not is_nested:
        return usual
    stated = text.raw("architectures")
    if isinstance(stated, list) and stated and stated[0] in FAMILIES:
        return str(stated[0])
    if not text.has("model_type"):
        return usual
    kind = text.text("model_type")
    name = _BY_TYPE.get(kind) or _transformers_class(kind)
    if name not in FAMILIES:
        model = quote_value(name or kind)
        raise unsupported(architecture, f" with the language model {model}, which no family computes")
    return name


def _transformers_class(model_type: str) -> str | None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES  # slow to import

    found: str | None = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type)
    return found


def _merged(outer: HFConfig, text: HFConfig) -> HFConfig:
    """Merge fields from the language model's section, its nulls too, then from the object around it.

    That object comes first for the architecture, for whether the output layer is tied, and for the tokens that end
    generation.
    """
    first = {name: outer.raw(name) for name in ("architectures", "tie_word_embeddings", "eos_token_id")}
    fields = {**outer.fields, **text.fields, **_stated(first)}
    return dataclasses.replace(outer, fields={name: value for name, value in fields.items() if name not in _SECTIONS})


def _completed(config: HFConfig, text: HFConfig) -> HFConfig:
    """Return `config` with transformers' defaults for the type of the section `text`.

    transformers leaves fields with default values out of sections when it saves them. Special tokens and whether the
    output layer is tied have no defaults here: other files and the object around the section say them.
    """
    from transformers import PretrainedConfig  # slow to import
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    model_type = text.raw("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        return config
    kind = CONFIG_MAPPING[model_type]
    left_out = inspect.signature(PretrainedConfig).parameters.keys() | {"tie_word_embeddings", "rope_scaling"}
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(kind).parameters.items()
        if parameter.default is not inspect.Parameter.empty and name not in left_out and not name.endswith("_token_id")
    }
    for names in kind.attribute_map.items():  # two names of one field
        if any(name in config.fields for name in names):
            defaults = {name: value for name, value in defaults.items() if name not in names}
    defaults |= _default_rope(kind, config)
    return config.with_defaults(_stated(defaults))


def _default_rope(kind: Any, config: HFConfig) -> dict[str, Any]:
    """Return the rotary fields that a class of configurations adds to those that `config` states."""
    if any("rope" in name or "rotary" in name for name in _stated(config.fields)):
        theta = getattr(kind, "default_theta", None)
        return {"rope_theta": theta} if isinstance(theta, int | float) else {}
    return {"rope_parameters": getattr(kind(), "rope_parameters", None)}


def _stated(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def language_model_of(family: Family, body: str = USUAL_BODY) -> Family:
    """Return the family of a checkpoint in which a model of `family` is the language model.

    body: prefix of its body in transformers' class.
    """
    return dataclasses.replace(family, names=_wrapped_names(family.names, body), note=_NOTE, is_wrapped=True)


def _wrapped_names(names: Rules, body: str) -> dict[str, To | tuple[To, ...] | None]:
    """Return the rules of a language model under all prefixes that checkpoints have used, `body` last.

    Of several names for one destination, the last is that of transformers' class.
    """
    wrapped: dict[str, To | tuple[To, ...] | None] = {}
    for part in _LEFT_OUT:
        wrapped[f"{part}.**"] = wrapped[f"model.{part}.**"] = wrapped[f"thinker.{part}.**"] = IGNORE
    for tensor in _LEFT_OUT_TENSORS:
        wrapped[tensor] = wrapped[f"model.{tensor}"] = IGNORE
    for pattern, to in names.items():
        for prefix in (*_BODIES, body):
            name = _under(prefix, pattern)
            wrapped.pop(name, None)  # so that it becomes the last
            wrapped[name] = to
    return wrapped


def _under(body: str, pattern: str) -> str:
    """Return a language model's pattern within the whole; what is beside its body is beside `model` there."""
    if pattern.startswith("model."):
        return body + pattern.removeprefix("model.")
    parts = body.split(".")
    return "".join(f"{part}." for part in parts[: parts.index("model")]) + pattern
