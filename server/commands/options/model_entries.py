"""ModelEntry objects for `headrace serve MODEL MODEL ...` and for `models:` in the YAML file."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from engine.config import EngineConfig
from engine.errors import OptionError
from server.commands.options.definitions import OPTIONS, config_of_values, suggest
from server.config.models import ModelEntry, default_entry, default_names

# Options that a model may have of its own, in addition to all options of the engine.
_OF_SERVER = ("chat_template", "tool_call_parser", "reasoning_parser", "calibration", "max_num_waiting")
_OWN = ("model", "served_model_name", "idle_unload", "pin", "kv_share")
_KNOWN = frozenset([*(field.name for field in dataclasses.fields(EngineConfig)), *_OF_SERVER, *_OWN])


def entries_of_arguments(models: Sequence[str], values: Mapping[str, Any]) -> tuple[ModelEntry, ...]:
    """Return an entry for each positional model, all with the options in `values`. Raises OptionError for repeated
    names or invalid options."""
    if "served_model_name" in values:
        raise OptionError(
            f"{OPTIONS['served_model_name'].flag} would name {len(models)} models; give them names in a file "
            "(--config), under models:"
        )
    _check_names(models)
    return tuple(
        default_entry(name, _engine({**values, "model": model}, model))
        for name, model in zip(default_names(models), models, strict=True)
    )


def entries_of_file(given: object, values: Mapping[str, Any], where: str) -> tuple[ModelEntry, ...]:
    """Return an entry for each model in the file's `models:` mapping. values: options shared by all models. where: the
    mapping's place, for errors. Raises OptionError for a malformed mapping, repeated names or invalid options."""
    if not isinstance(given, dict) or not given:
        raise OptionError(f"{where} must have a line for each model: its name, and under it 'model: PATH' and options")
    entries = tuple(_entry(str(name), options, values, f"{where}: {name}") for name, options in given.items())
    _check_names([name for entry in entries for name in entry.names])
    return entries


def _entry(name: str, given: object, values: Mapping[str, Any], where: str) -> ModelEntry:
    if isinstance(given, str):
        given = {"model": given}
    if not isinstance(given, dict) or "model" not in given:
        raise OptionError(f"{where} must have 'model: PATH' (or a hub id), and may have options")
    own: dict[str, Any] = {}
    for key, value in given.items():
        option = str(key).replace("-", "_")
        if option not in _KNOWN:
            dashed = (known.replace("_", "-") for known in _KNOWN)
            raise OptionError(f"{where}: {key} is not an option of a model{suggest(str(key), dashed)}")
        own[option] = _value(option, value, f"{where}: {key}")
    return ModelEntry(
        names=(name, *own.get("served_model_name", ())),
        engine=_engine({**values, **own}, where),
        overrides={option: own[option] for option in _OF_SERVER if option in own},
        idle_unload=own.get("idle_unload"),
        is_pinned=own.get("pin", False),
        kv_share=own.get("kv_share", 1.0),
        own_options=frozenset(own),
    )


def _value(option: str, value: object, where: str) -> Any:
    if option == "pin":
        if not isinstance(value, bool):
            raise OptionError(f"{where} is {value!r}; it must be true or false")
        return value
    if option == "kv_share":
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
            raise OptionError(f"{where} is {value!r}; it must be a number above 0; other models have 1 by default")
        return float(value)
    return OPTIONS[option].parse(value, where)


def _engine(values: Mapping[str, Any], where: str) -> EngineConfig:
    try:
        config: EngineConfig = config_of_values(EngineConfig, values)
    except OptionError as error:
        raise OptionError(f"{where}: {error}") from error
    return config


def _check_names(names: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise OptionError(f"two models have the name {name!r}; give them different ones in a file, under models:")
        seen.add(name)
