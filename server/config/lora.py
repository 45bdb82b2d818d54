"""LoraConfig: options of LoRA adapters for the API process; a part of ServerConfig."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import msgspec

from engine.config import option
from engine.errors import OptionError

_adapters = partial(option, group="Adapters")


class LoraModule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An adapter of --lora-modules, served from startup."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    path: Annotated[str, msgspec.Meta(min_length=1)]
    base_model_name: str | None = None  # served model that the adapter is for; None if only one model can have adapters


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
        try:
            return msgspec.json.decode(text, type=LoraModule)
        except msgspec.DecodeError as error:
            raise OptionError(
                f"--lora-modules is {text!r}: {error}; it must be a JSON object with name, path and, if several models "
                "can have adapters, base_model_name"
            ) from error
    name, separator, path = text.partition("=")
    if not separator or not name or not path:
        raise OptionError(f"--lora-modules is {text!r}; write NAME=PATH, or a JSON object with name and path")
    return LoraModule(name, path)
