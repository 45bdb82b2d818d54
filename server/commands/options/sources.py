"""resolve_options: values of options from flags, HEADRACE_* variables and a YAML file, in this order of precedence."""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from engine.config import EngineConfig
from engine.errors import OptionError
from server.commands.options.definitions import (
    CONFIG_VARIABLE,
    OPTIONS,
    OTHER_VARIABLES,
    PREFIX,
    config_of_values,
    suggest,
)
from server.commands.options.model_entries import entries_of_arguments, entries_of_file
from server.config.finetuning import FinetuningJobsConfig
from server.config.lora import LoraConfig
from server.config.models import ModelEntry, ModelsConfig
from server.config.network import NetworkConfig
from server.config.server import ServerConfig
from server.config.storage import StorageConfig

# Kubernetes sets such variables for every Service in a pod's namespace. A Service named "headrace" gives them our
# prefix, so that HEADRACE_PORT is "tcp://10.0.0.1:8000".
_SERVICE_LINK_NAME = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_|$)|_PORT_\d+_(TCP|UDP|SCTP)")
_MODELS = "models"  # the file's mapping of several models
_SERVICE_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://")


def options_file(given: str | None) -> Path | None:
    """Return the path of --config, or else of HEADRACE_CONFIG; None if there is neither."""
    path = given or os.environ.get(CONFIG_VARIABLE)
    return Path(path) if path else None


def names_model(flags: Mapping[str, object], environ: Mapping[str, str], file: Path | None) -> bool:
    """Return whether a flag, a variable or perhaps the file names a model, so that the demo model is not loaded."""
    return "model" in flags or file is not None or OPTIONS["model"].variable in environ


def resolve_options(
    flags: Mapping[str, object], environ: Mapping[str, str], file: Path | None, models: Sequence[str] = ()
) -> tuple[ServerConfig, EngineConfig]:
    """Return both configs, merged from flags (by field name), HEADRACE_* variables, the file and defaults.

    models: the positional arguments.

    Raises OptionError for unknown names, invalid values (even if overridden), and values that conflict.
    """
    values: dict[str, Any] = {}
    values.update(_from_file(file) if file is not None else ())
    listed = values.pop(_MODELS, None)
    values.update(_from_environ(environ))
    values.update((name, OPTIONS[name].parse(value, OPTIONS[name].flag)) for name, value in flags.items())
    if len(models) == 1:
        values["model"] = models[0]
    entries = _entries(models, listed, values, f"{file}: models")
    server_values = {
        **values,
        "network": config_of_values(NetworkConfig, values),
        "storage": config_of_values(StorageConfig, values),
        "lora": config_of_values(LoraConfig, values),
        "finetuning": config_of_values(FinetuningJobsConfig, values),
        "models": dataclasses.replace(config_of_values(ModelsConfig, values), entries=entries),
    }
    return config_of_values(ServerConfig, server_values), config_of_values(EngineConfig, values)


def _entries(models: Sequence[str], listed: object, values: Mapping[str, Any], where: str) -> tuple[ModelEntry, ...]:
    """Return the entries of several models, from the file's list or the command line; empty for a single model."""
    if listed is not None:
        if "model" in values or models:
            raise OptionError(
                f"{where} lists the models, but {values.get('model') or models[0]} is given "
                "too; add it to the file, or remove the file's list"
            )
        return entries_of_file(listed, values, where)
    return entries_of_arguments(models, values) if len(models) > 1 else ()


def _from_environ(environ: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    by_variable = {option.variable: option for option in OPTIONS.values()}
    for variable, text in environ.items():
        if not variable.startswith(PREFIX) or variable in OTHER_VARIABLES or _is_service_link(variable, text):
            continue
        if variable not in by_variable:
            raise OptionError(f"unknown variable {variable}{suggest(variable, by_variable)}")
        option = by_variable[variable]
        value: object = [part.strip() for part in text.split(",")] if option.is_many else text
        yield option.name, option.parse(value, variable)


def _is_service_link(variable: str, text: str) -> bool:
    return bool(_SERVICE_LINK_NAME.search(variable) or _SERVICE_LINK_VALUE.match(text))


def _from_file(path: Path) -> Iterator[tuple[str, Any]]:
    seen: set[str] = set()
    for key, value, line in _read_yaml(path):
        name, where = key.replace("-", "_"), f"{path}, line {line}"
        if name == _MODELS:
            yield name, value
            continue
        if name not in OPTIONS:
            dashed = (name.replace("_", "-") for name in OPTIONS)
            raise OptionError(f"{where}: unknown option {key}{suggest(key.replace('_', '-'), dashed)}")
        if name in seen:
            raise OptionError(f"{where}: {key} is given twice; remove one")
        seen.add(name)
        yield name, OPTIONS[name].parse(value, f"{where}: {key}")


def _read_yaml(path: Path) -> Iterator[tuple[str, object, int]]:
    """Yield (key, value, line number) of each entry. Reads YAML nodes, since a dict would hide repeated keys."""
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        if root is None:
            return
        if not isinstance(root, yaml.MappingNode):
            raise OptionError(f"{path} has no options; write one on each line, such as 'port: 8000'")
        for key, value in root.value:
            yield str(key.value), loader.construct_object(value, deep=True), key.start_mark.line + 1
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(
            f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}"
        ) from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise OptionError(f"{path}{line}: not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise OptionError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
