"""settings_in_force: each option of a server with its value, as text without secrets."""

import enum
import re
from typing import Any

from engine.config import EngineConfig
from server.commands.options.definitions import OPTIONS, Option
from server.config.server import ServerConfig
from server.schemas.dashboard_server import Setting

_SECRET = frozenset({"api_key"})
_CREDENTIALS = re.compile(r"(?<=://)(?:[^/:\s]*:\S+|[^/\s]+)(?=@)")  # USER:PASSWORD in a URL, also with / and @


def settings_in_force(server: ServerConfig, engine: EngineConfig) -> list[Setting]:
    """Return the options in the order of the help. With several models, their own options are not included."""
    parts = (server, server.network, server.storage, server.lora, server.finetuning, server.models, engine)
    return [_setting(option, _value(option.name, parts)) for option in OPTIONS.values()]


def _value(name: str, parts: tuple[object, ...]) -> Any:
    return next(getattr(part, name) for part in parts if hasattr(part, name))


def _setting(option: Option, value: Any) -> Setting:
    return Setting(option.flag, _text(option, value), value == option.default, option.group, option.help)


def _text(option: Option, value: Any) -> str:
    if value is None or value == ():
        return "not set"
    if option.name in _SECRET:
        return f"{len(value)} hidden"
    if isinstance(value, tuple):
        return ", ".join(_one(option, each) for each in value)
    return _one(option, value)


def _one(option: Option, value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if option.is_size or option.is_duration:
        return f"{value:,} bytes" if option.is_size else f"{value:g} s"
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value.value if isinstance(value, enum.Enum) else value)
    return _CREDENTIALS.sub("hidden", text)
