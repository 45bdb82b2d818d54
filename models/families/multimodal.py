"""Multimodal checkpoints: only their language model is served."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from models.config.hf_config import HFConfig
from models.families.name_map import IGNORE, To
from models.families.registry import Family

_NOTE = "Text only: the checkpoint's vision tower is left out; images are not supported"
_VISION = ("vision_tower", "vision_model", "multi_modal_projector")


def language_model_of(family: Family, defaults: Mapping[str, Any] | None = None, *, wraps_head: bool = False) -> Family:
    """Return the family of a multimodal class whose `text_config` is a configuration of `family`.

    defaults: fields that checkpoints leave out of text_config. wraps_head: whether `language_model` of transformers'
    class is the whole language model with its head, and not only its body within `model`.
    """
    names = _names(family)
    if wraps_head:  # of several names for one destination, the last is transformers'
        for pattern in family.names:
            names[f"language_model.{pattern}"] = names.pop(f"language_model.{pattern}")
    return dataclasses.replace(
        family, names=names, text_config=lambda config: _text_config(config, defaults or {}), note=_NOTE
    )


def _text_config(config: HFConfig, defaults: Mapping[str, Any]) -> HFConfig:
    """Merge fields from text_config, then `defaults`, then the outer object.

    The outer object comes first for the architecture, for whether the output layer is tied, and for the tokens that end
    generation; only it has a `quantization_config`.
    """
    text = config.section("text_config").fields
    first = {name: config.raw(name) for name in ("architectures", "tie_word_embeddings", "eos_token_id")}
    fields = {**config.fields, **defaults, **_stated(text), **_stated(first)}
    return dataclasses.replace(config, fields={name: value for name, value in fields.items() if name != "text_config"})


def _stated(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _names(family: Family) -> dict[str, To | tuple[To, ...] | None]:
    """Return the rules of the language model under all prefixes that checkpoints have used."""
    names: dict[str, To | tuple[To, ...] | None] = {}
    for part in _VISION:
        names[f"{part}.**"] = names[f"model.{part}.**"] = IGNORE
    for pattern, to in family.names.items():
        names[f"language_model.{pattern}"] = to
        head, dot, rest = pattern.partition(".")
        names[f"model.language_model.{rest}" if head + dot == "model." else pattern] = to
    return names
