"""LoraConfig: options of LoRA adapters for the API process; a part of ServerConfig."""

import json
from dataclasses import dataclass
from functools import partial

from engine.config import option
from engine.errors import OptionError

_KEYS = frozenset({"name", "path", "base_model_name"})

_adapters = partial(option, group="Adapters")


@dataclass(frozen=True, slots=True)
class LoraModule:
    """An adapter that is served from the start."""

    name: str
    path: str
    base_model_name: str | None = None  # its served model; None if only one has --enable-lora


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """Options of LoRA adapters. Raises OptionError for a malformed --lora-modules."""

    lora_modules: tuple[str, ...] = _adapters(
        (),
        "LoRA adapter to serve, as NAME=PATH or as a JSON object with name, path and base_model_name; repeatable, with "
        "--enable-lora.",
        metavar="NAME=PATH",
    )
    adapter_dir: str | None = _adapters(
        None,
        "Folder below which POST /v1/load_lora_adapter may load adapters while the server runs (default: none).",
        metavar="DIR",
    )

    def __post_init__(self) -> None:
        names = [module.name for module in self.modules]
        for name in names:
            if names.count(name) > 1:
                raise OptionError(f"--lora-modules has two adapters with the name {name!r}; give them different ones")

    @property
    def modules(self) -> list[LoraModule]:
        return [_module(text) for text in self.lora_modules]


def _module(text: str) -> LoraModule:
    if text.lstrip().startswith("{"):
        return _from_json(text)
    name, separator, path = text.partition("=")
    if not separator or not name or not path:
        raise OptionError(f"--lora-modules is {text!r}; write NAME=PATH, or a JSON object with name and path")
    return LoraModule(name, path)


def _from_json(text: str) -> LoraModule:
    try:
        given = json.loads(text)
    except ValueError as error:
        raise OptionError(f"--lora-modules is {text!r}, which is not a JSON object: {error}") from error
    if unknown := sorted(given.keys() - _KEYS):
        raise OptionError(f"--lora-modules has {unknown[0]!r}; it may have {', '.join(sorted(_KEYS))}")
    for key in ("name", "path"):
        if not isinstance(given.get(key), str) or not given[key]:
            raise OptionError(f"--lora-modules is {text!r}; it must have a {key}, as text")
    base = given.get("base_model_name")
    if base is not None and not isinstance(base, str):
        raise OptionError(f"--lora-modules has base_model_name {base!r}; it must be the name of a served model")
    return LoraModule(given["name"], given["path"], base)
