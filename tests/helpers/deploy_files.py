"""What the files in deploy/ ask of the server: options, as variables and as arguments of its command."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from engine.config import EngineConfig
from server.commands.options.arguments import serve_options
from server.commands.options.sources import resolve_options
from server.commands.serve.arguments import serve_parser
from server.config.server import ServerConfig
from tests.helpers.repository import ROOT

DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "docker-compose.yml"
UNIT = DEPLOY / "systemd/headrace.service"
CHART = DEPLOY / "helm/headrace"
MANIFESTS = DEPLOY / "kubernetes"
ENVIRONMENT_FILE = DEPLOY / "systemd/headrace.env"

# From the drain's end: the engine's exit (5 s), what is left to store (3 s), answers to flush (3 s).
AFTER_DRAIN_S = 11

_ASSIGNMENT = re.compile(r"^#?(HEADRACE_\w+)=(.*)$", re.MULTILINE)  # commented ones too
_INTERPOLATION = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def compose_service(name: str) -> dict[str, Any]:
    service: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"][name]
    return service


def interpolated(text: str, **variables: str) -> str:
    """As Compose replaces ${NAME}, ${NAME:-default} and ${NAME:?what it is}."""

    def value(match: re.Match[str]) -> str:
        name, kind, word = match.groups()
        return variables[name] if kind != "-" else variables.get(name, word)

    return _INTERPOLATION.sub(value, text)


def unit() -> dict[str, list[str]]:
    """The settings of the unit by name; one that is given several times has several values."""
    settings: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        name, found, value = line.partition("=")
        if found and not line.startswith("#"):
            settings.setdefault(name, []).append(value)
    return settings


def environment_file() -> dict[str, str]:
    return dict(_ASSIGNMENT.findall(ENVIRONMENT_FILE.read_text()))


def unit_environment() -> dict[str, str]:
    pairs = (pair.partition("=") for line in unit()["Environment"] for pair in line.split())
    return {name: value for name, _, value in pairs}


def configured(command: Sequence[str], environ: Mapping[str, str]) -> tuple[ServerConfig, EngineConfig]:
    """What `headrace` would run with these arguments and variables. Raises OptionError where it would refuse them."""
    assert command[0] == "serve"
    arguments = serve_parser().parse_args(command[1:])
    flags, models = serve_options(arguments)
    file = arguments.config or environ.get("HEADRACE_CONFIG")
    return resolve_options(flags, environ, None if file is None else Path(file), models)


def seconds(span: str) -> float:
    """Of a span as systemd and Compose write it, such as 45, 45s or 10min."""
    number, unit_name = re.fullmatch(r"(\d+)(s|min|h)?", span).groups()  # type: ignore[union-attr]
    return int(number) * {None: 1, "s": 1, "min": 60, "h": 3600}[unit_name]
