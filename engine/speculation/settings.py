"""SpeculationSettings: the options of speculation, with --speculative-config merged in and defaults resolved."""

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from engine.config import DraftSampling, EngineConfig, Quantization, SpeculativeMethod
from engine.errors import OptionError
from engine.speculation.proposers import DraftSource

AUTO_TOKENS = 15  # longest draft of "auto": beyond it a verification is no longer cheap anywhere
_KEYS = ("method", "model", "num_speculative_tokens", "prompt_lookup_max", "prompt_lookup_min", "quantization")
_MAX_TOKENS = 64

Member = TypeVar("Member", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class SpeculationSettings:
    """Speculation options. draft_model: set with method DRAFT_MODEL, optional with NGRAM. max_tokens: longest draft."""

    method: SpeculativeMethod
    max_tokens: int
    draft_model: str | None
    draft_quantization: Quantization
    draft_sampling: DraftSampling
    lookup_min: int
    lookup_max: int

    @property
    def sources(self) -> frozenset[DraftSource]:
        """Enabled sources of drafts. Predictions that requests contain are always enabled."""
        sources = {DraftSource.PREDICTION}
        if self.method is SpeculativeMethod.NGRAM:
            sources.add(DraftSource.NGRAM)
        if self.draft_model is not None:
            sources.add(DraftSource.DRAFT_MODEL)
        return frozenset(sources)


def speculation_settings(config: EngineConfig) -> SpeculationSettings:
    """Return a config's speculation settings. Raises OptionError for invalid or contradictory options."""
    extra = _parse(config.speculative_config)
    method = _member(SpeculativeMethod, extra.get("method", config.speculative_method), "speculative method")
    draft_model = extra.get("model", config.draft_model)
    if draft_model is not None and method is SpeculativeMethod.NONE:
        method = SpeculativeMethod.DRAFT_MODEL
    if method is SpeculativeMethod.DRAFT_MODEL and draft_model is None:
        raise OptionError("--speculative-method is draft_model, but there is no --draft-model; name one")
    lookup_max = _whole_number(extra, "prompt_lookup_max", 4)
    lookup_min = _whole_number(extra, "prompt_lookup_min", min(2, lookup_max))
    if lookup_min > lookup_max:
        raise OptionError(f"prompt_lookup_min is {lookup_min}, above prompt_lookup_max, {lookup_max}; lower it")
    quantization = extra.get("quantization", config.draft_quantization)
    return SpeculationSettings(
        method=method,
        max_tokens=_max_tokens(extra.get("num_speculative_tokens", config.num_speculative_tokens)),
        draft_model=draft_model,
        draft_quantization=_member(Quantization, quantization, "draft's quantization"),
        # A drawn draft changes the text with its length, which depends on measured times.
        draft_sampling=DraftSampling.GREEDY if config.deterministic else config.draft_sampling,
        lookup_min=lookup_min,
        lookup_max=lookup_max,
    )


def _parse(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        values = json.loads(text)
    except ValueError as error:
        raise OptionError(f"--speculative-config is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise OptionError("--speculative-config must be a JSON object, such as " + '\'{"method": "ngram"}\'')
    for name in values:
        if name not in _KEYS:
            raise OptionError(f"--speculative-config has the key {name!r}; known are {', '.join(_KEYS)}")
    return values


def _member(kind: type[Member], value: Any, noun: str) -> Member:
    try:
        return kind(value)
    except ValueError:
        raise OptionError(f"the {noun} is {value!r}; it must be one of {', '.join(kind)}") from None


def _max_tokens(value: object) -> int:
    if value == "auto":
        return AUTO_TOKENS
    text = str(value)
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= _MAX_TOKENS):
        raise OptionError(f"--num-speculative-tokens is {text}; it must be auto or a number from 1 to {_MAX_TOKENS}")
    return int(text)


def _whole_number(values: dict[str, Any], name: str, default: int) -> int:
    value = values.get(name, default)
    if type(value) is not int or not 1 <= value <= _MAX_TOKENS:
        raise OptionError(f"{name} in --speculative-config is {value!r}; it must be a number from 1 to {_MAX_TOKENS}")
    return value
