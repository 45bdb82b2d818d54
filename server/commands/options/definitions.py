"""Option: a field of a config dataclass as a flag, an environment variable and a key of a YAML file."""

import dataclasses
import difflib
import enum
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from engine.child_processes.fault_plan import VARIABLE
from engine.config import EngineConfig
from engine.errors import OptionError, StartupError
from server.config.finetuning import FinetuningJobsConfig
from server.config.lora import LoraConfig
from server.config.models import ModelsConfig
from server.config.network import NetworkConfig
from server.config.server import ServerConfig
from server.config.storage import StorageConfig

PREFIX = "HEADRACE_"
CONFIG_VARIABLE = f"{PREFIX}CONFIG"
CLIENT_KEY_VARIABLE = f"{PREFIX}CLIENT_KEY"
# Variables that are not options of a dataclass. Unknown variables are refused: one may be a misspelled API key.
OTHER_VARIABLES = {
    CONFIG_VARIABLE: "The file of --config.",
    f"{PREFIX}CACHE": "Folder for downloaded models, packed weights and compiled kernels (default: ~/.cache/headrace).",
    CLIENT_KEY_VARIABLE: "Key that headrace chat, complete, replay, ps and top send to a server.",
    f"{PREFIX}CPU_LEVEL": (
        "Instruction set of the CPU kernels, instead of the processor's best: portable, avx2, ..., or on ARM64 "
        "dotprod, i8mm_bf16"
    ),
    VARIABLE: "Faults to inject, with --enable-fault-injection; engine/child_processes/fault_plan.py lists them.",
    f"{PREFIX}SPIN_US": "Microseconds that an idle kernel thread looks for work before it sleeps (default: 20).",
    f"{PREFIX}WHEEL_LEVELS": "CPU levels that a wheel is built with: native (the default), all, none, or names.",
}

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?i?B)?", re.IGNORECASE)
_SIZE_UNITS = {"B": 1} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("KMGT", start=1)
    for suffix, base in (("B", 1000), ("IB", 1024))
}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])?")
_DURATION_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


@dataclass(frozen=True, slots=True)
class Option:
    """One field of a config dataclass, as an option."""

    name: str
    help: str
    group: str
    kind: type  # bool, int, float, str or an enum
    is_many: bool  # a tuple of `kind`
    is_size: bool  # an int that also takes 2GiB or 500MB
    is_duration: bool  # a float, in seconds, that also takes 10m or 2h
    default: Any
    metavar: str
    minimum: float | None
    maximum: float | None

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()

    def parse(self, value: object, source: str) -> Any:
        """Parse and check a value from text or YAML. source: where it was given, for errors. Raises OptionError for an
        invalid value."""
        if not self.is_many:
            return self._parse_one(value, source)
        values = value if isinstance(value, list) else [value]
        if not values:
            raise OptionError(f"{source} is empty; leave it out, or give at least one value")
        return tuple(self._parse_one(each, source) for each in values)

    def _parse_one(self, value: object, source: str) -> Any:
        parsed = self._convert(value)
        if parsed is None or not self._is_in_range(parsed) or (self.is_many and not parsed):
            raise OptionError(f"{source} is {_show(value)}; it must be {self.allowed}")
        return parsed

    def _convert(self, value: object) -> Any:
        """Convert a value to the option's type; return None if that is not possible."""
        if isinstance(value, str):
            return _duration(value.strip()) if self.is_duration else _from_text(value.strip(), self.kind, self.is_size)
        if self.kind is float and type(value) is int:
            return float(value)
        return value if type(value) is self.kind else None

    def _is_in_range(self, value: Any) -> bool:
        if self.kind is float and not math.isfinite(value):
            return False
        return (self.minimum is None or value >= self.minimum) and (self.maximum is None or value <= self.maximum)

    @property
    def allowed(self) -> str:
        """The allowed values, as a phrase for error messages."""
        if issubclass(self.kind, enum.Enum):
            return "one of " + ", ".join(str(member.value) for member in self.kind)
        if self.kind is bool:
            return "true or false"
        if self.kind is str:
            return "text that is not empty" if self.is_many else "text (in YAML: in quotes)"
        what = "a size such as 2GiB, 500MB or 1073741824" if self.is_size else "a number"
        if self.is_duration:
            what = "a time such as 90s, 10m or 2h"
        if self.kind is int and not self.is_size:
            what = "a whole number"
        if self.maximum is not None:
            return f"{what} from {self.minimum:g} to {self.maximum:g}"
        return what if self.minimum is None else f"{what}, at least {self.minimum:g}"


def _from_text(text: str, kind: type, is_size: bool) -> Any:
    if kind is bool:
        return True if text.lower() in _TRUE else False if text.lower() in _FALSE else None
    if is_size:
        return _parse_size(text)
    try:
        return kind(text.lower() if issubclass(kind, enum.Enum) else text)  # HEADRACE_LOG_LEVEL=INFO
    except ValueError:
        return None


def _parse_size(text: str) -> int | None:
    match = _SIZE.fullmatch(text)
    if match is None:
        return None
    unit = (match[2] or "B").upper()
    return int(float(match[1]) * _SIZE_UNITS[unit]) if unit in _SIZE_UNITS else None


def _duration(text: str) -> float | None:
    """Parse a duration such as 90s, 10m or 2h; return seconds, or None if `text` is not a duration."""
    match = _DURATION.fullmatch(text)
    return None if match is None else float(match[1]) * _DURATION_UNITS[match[2] or "s"]


def _show(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else repr(value)


def options_of(config_class: type) -> list[Option]:
    """Return the options that a config dataclass declares with engine.config.option, in the order of its fields."""
    hints = typing.get_type_hints(config_class)
    return [_option_of(field, hints[field.name]) for field in dataclasses.fields(config_class) if field.metadata]


def _option_of(field: "dataclasses.Field[Any]", hint: Any) -> Option:
    if typing.get_origin(hint) is types.UnionType:  # X | None: None means "not given", and cannot be typed
        (hint,) = (member for member in typing.get_args(hint) if member is not types.NoneType)
    is_many = typing.get_origin(hint) is tuple
    kind = typing.get_args(hint)[0] if is_many else hint
    return Option(
        name=field.name,
        help=field.metadata["help"],
        group=field.metadata["group"],
        kind=kind,
        is_many=is_many,
        is_size=field.metadata.get("type") == "bytes",
        is_duration=field.metadata.get("type") == "duration",
        default=field.default,
        metavar=field.metadata.get("metavar") or _metavar_of(field, kind),
        minimum=field.metadata.get("minimum"),
        maximum=field.metadata.get("maximum"),
    )


def _metavar_of(field: "dataclasses.Field[Any]", kind: type) -> str:
    if issubclass(kind, enum.Enum):
        return "{" + ",".join(str(member.value) for member in kind) + "}"
    of_number = {"bytes": "SIZE", "duration": "TIME"}.get(str(field.metadata.get("type")), "N")
    return of_number if kind in (int, float) else field.name.rpartition("_")[2].upper()


OPTIONS: Mapping[str, Option] = {
    option.name: option
    for config_class in (
        *(EngineConfig, ServerConfig, StorageConfig, ModelsConfig),
        *(LoraConfig, FinetuningJobsConfig, NetworkConfig),
    )
    for option in options_of(config_class)
}


def config_of_values(config_class: type, values: Mapping[str, Any]) -> Any:
    """Return a config of those values that are fields of `config_class`. Raises OptionError."""
    names = {field.name for field in dataclasses.fields(config_class)}
    try:
        return config_class(**{name: value for name, value in values.items() if name in names})
    except StartupError as error:
        raise OptionError(str(error)) from error


def suggest(given: str, known: Iterable[str]) -> str:
    """Return '; did you mean X?' with the known name that is closest to the given one, or '' if none is close."""
    bare = {name.lstrip("-"): name for name in known}  # dashes that all have would make short names alike
    nearest = [bare[each] for each in difflib.get_close_matches(given.lstrip("-"), bare, n=1, cutoff=0.6)] or [
        name
        for name in bare.values()
        if len(name) > len("--o") and given.startswith(name)  # --output-folder for --out
    ]
    return f"; did you mean {nearest[0]}?" if nearest else ""
