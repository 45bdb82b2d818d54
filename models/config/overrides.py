"""User overrides of a model's configuration: --hf-overrides, --rope-scaling, --rope-theta."""

import dataclasses
import json
from collections.abc import Container, Iterator, Mapping
from typing import Any

from models.config.hf_config import HFConfig
from models.errors import ModelError, SettingError, UnsupportedModelError

# Fields that describe a scaling. Another scaling replaces all of them, and no other field.
_SCALING_FIELDS = frozenset(
    (
        *("rope_type", "type", "factor", "factors", "original_max_position_embeddings", "attention_factor"),
        *("beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
        *("short_factor", "long_factor", "low_freq_factor", "high_freq_factor"),
    )
)
_OTHER_ROPE_FIELDS = ("rope_theta", "partial_rotary_factor")  # in the same section since transformers 5


def parse_overrides(hf_overrides: str | None, rope_scaling: str | None, rope_theta: float | None) -> dict[str, Any]:
    """Return fields of a config.json from options' values.

    Raises SettingError if a text is not a JSON object, or if two options set the same field.
    """
    fields = _object("--hf-overrides", hf_overrides)
    shorter = {"--rope-scaling": ("rope_scaling", "rope_parameters"), "--rope-theta": ("rope_theta",)}
    values = {"--rope-scaling": rope_scaling and _object("--rope-scaling", rope_scaling), "--rope-theta": rope_theta}
    for option, names in shorter.items():
        if values[option] is None:
            continue
        if twice := [name for name in names if name in fields]:
            raise SettingError(f"{option} and {twice[0]} in --hf-overrides are the same; leave one of them out")
        fields[names[0]] = values[option]
    return fields


def _object(option: str, text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingError(f"{option} is not JSON: {error}") from None
    if not isinstance(value, dict):
        scaling = '{"rope_type": "yarn", "factor": 4.0}'
        example = scaling if option == "--rope-scaling" else f'{{"rope_scaling": {scaling}}}'
        raise SettingError(f"{option} must be a JSON object, such as '{example}'")
    return value


@dataclasses.dataclass(frozen=True, slots=True)
class OverriddenConfig:
    """A configuration with the user's overrides, and the names of the overridden fields, such as
    "rope_parameters.factor"."""

    config: HFConfig
    names: tuple[str, ...]

    def note_read(self, names: Container[str]) -> None:
        """Mark fields and sections as read, for code that does not use HFConfig's getters."""
        self.config.reads.update(name for name in self.names if name.partition(".")[0] in names)

    def refuse_unread(self, architecture: str) -> None:
        """Raise UnsupportedModelError for an overridden field that was not read."""
        for name in self.names:
            if name not in self.config.reads:
                raise UnsupportedModelError(
                    f"--hf-overrides states {name}, which is not used for {architecture}; correct it or leave it out"
                )


def override(config: HFConfig, fields: Mapping[str, Any]) -> OverriddenConfig:
    """Merge `fields` into the fields of `config`, object by object.

    The user's `rope_scaling` or `rope_parameters` (the newer name) replaces the checkpoint's rotary scaling; theta
    stays unless the user states it. Linear scaling extends `max_position_embeddings`, as in vLLM; yarn and dynamic
    scaling do not, since `context_length` counts their factor.
    """
    if not fields:
        return OverriddenConfig(config, ())
    base, given = _in_layout_of(config, fields)
    merged = dataclasses.replace(
        config,
        fields=_merged(base, given),
        source=f"{config.source} with --hf-overrides or --rope-scaling",
        remedy="correct what is given there",
    )
    return OverriddenConfig(merged, tuple(_leaves(given)))


def _in_layout_of(config: HFConfig, fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the configuration's fields and the user's, ready to be merged.

    A rotary scaling that the user replaces is removed from the configuration's fields. The user's rotary fields are
    moved to where the configuration has such fields.
    """
    base, given = dict(config.fields), dict(fields)
    scaling = _take_scaling(given)
    section = "rope_parameters" if isinstance(base.get("rope_parameters"), dict) else "rope_scaling"
    rope = {} if scaling is None else dict(scaling)
    if section == "rope_parameters":
        rope |= {name: given.pop(name) for name in _OTHER_ROPE_FIELDS if name in given}
    else:
        given |= {name: rope.pop(name) for name in _OTHER_ROPE_FIELDS if name in rope}
    stored = base.get(section) or {}
    if _is_by_layer(stored) and not _is_by_layer(rope):
        rope = {"full_attention": rope} if rope else {}
    elif _is_by_layer(rope) and not _is_by_layer(stored):
        raise ModelError(f"{config.source} has one scaling for all layers; state one without kinds of layers")
    if scaling is not None:
        base[section] = _without_scaling(stored, rope)
        if "max_position_embeddings" not in given:
            _extend_context(base, scaling)
    return base, given | ({section: rope} if rope else {})


def _take_scaling(given: dict[str, Any]) -> Mapping[str, Any] | None:
    """Remove the rotary scaling from the user's fields and return it; None if there is none. null means no scaling."""
    names = [name for name in ("rope_scaling", "rope_parameters") if name in given]
    if not names:
        return None
    if len(names) == 2:
        raise ModelError("--hf-overrides states rope_scaling and rope_parameters, which are the same; leave out one")
    scaling = given.pop(names[0])
    if scaling is None:
        return {"rope_type": "default"}
    if not isinstance(scaling, dict):
        raise ModelError(f"--hf-overrides: {names[0]} is {scaling!r}; it must be an object or null")
    return scaling


def _is_by_layer(rope: Mapping[str, Any]) -> bool:
    """Whether rotary parameters are stated for each type of layer."""
    return any(isinstance(value, dict) for value in rope.values())


def _without_scaling(stored: Mapping[str, Any], rope: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stored parameters that remain when `rope` replaces their scaling."""
    if _is_by_layer(stored):
        return {
            layer_type: _without_scaling(parameters, {}) if layer_type in rope else parameters
            for layer_type, parameters in stored.items()
        }
    return {name: value for name, value in stored.items() if name not in _SCALING_FIELDS}


def _extend_context(base: dict[str, Any], scaling: Mapping[str, Any]) -> None:
    stated, factor = base.get("max_position_embeddings"), scaling.get("factor")
    is_linear = scaling.get("rope_type", scaling.get("type")) == "linear"
    if is_linear and isinstance(stated, int) and isinstance(factor, int | float):
        base["max_position_embeddings"] = int(stated * factor)


def _merged(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in given.items():
        stored = merged.get(name)
        merged[name] = _merged(stored, value) if isinstance(stored, dict) and isinstance(value, dict) else value
    return merged


def _leaves(fields: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}{name}.")
        else:
            yield path + name
