"""The JSON schema of the Helm chart's values: types from values.yaml, and the server's options from their table.

`python -m tests.helpers.docs_tables` writes it, tests/repository/test_deploy_chart.py compares.
"""

import enum
import json
from typing import Any

import yaml

from server.commands.options.definitions import OPTIONS, Option
from tests.helpers.deploy_files import CHART

SCHEMA = CHART / "values.schema.json"

# Options that the chart sets by values of its own: keys belong into a Secret, and a pod is reached by its port.
OWN_VALUES = frozenset(
    {
        *("model", "api_key", "api_keys_file", "data_dir", "host", "port", "uds", "uds_mode"),
        *("ssl_certfile", "ssl_keyfile", "ssl_keyfile_password"),
    }
)

# Objects whose fields Kubernetes or the user defines.
_FREE = frozenset({"resources", "strategy", "labels", "annotations", "monitoringNamespaces", "tlsConfig"})
_ENUMS = {
    "kind": ["none", "hpa", "keda"],
    "readinessPath": ["/ready", "/health"],
    "pullPolicy": ["Always", "IfNotPresent", "Never"],
    "type": ["ClusterIP", "LoadBalancer", "NodePort"],
}
_SPECIAL: dict[str, dict[str, Any]] = {
    "repository": {"type": "string", "minLength": 1},
    "digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    "maxUnavailable": {"type": ["integer", "string"], "pattern": "^[0-9]+%$", "minimum": 0},
}
_SIZE = "^[0-9]+([.][0-9]+)? ?([KMGTkmgt]?[iI]?[bB])?$"


def schema() -> dict[str, Any]:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "headrace"} | _object(values)


def _object(values: dict[str, Any]) -> dict[str, Any]:
    properties = {name: _options() if name == "options" else _value(name, value) for name, value in values.items()}
    properties |= {"global": {"type": "object"}} if "image" in values else {}  # of charts that have this one in them
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _value(name: str, value: Any) -> dict[str, Any]:
    if name in _SPECIAL:
        return _SPECIAL[name]
    if name in _ENUMS:
        return {"enum": _ENUMS[name]}
    match value:
        case dict():
            return _object(value) if value and name not in _FREE else {"type": "object"}
        case list():
            return {"type": "array"}
        case bool():
            return {"type": "boolean"}
        case int():
            return {"type": "integer", "minimum": 0}
    assert isinstance(value, str)
    return {"type": "string"}


def _options() -> dict[str, Any]:
    offered = {option.flag.removeprefix("--"): option for option in OPTIONS.values() if option.name not in OWN_VALUES}
    properties = {name: {"description": option.help} | _option(option) for name, option in offered.items()}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _option(option: Option) -> dict[str, Any]:
    one = _one_value(option)
    return {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]} if option.is_many else one


def _one_value(option: Option) -> dict[str, Any]:
    limits = {"minimum": option.minimum, "maximum": option.maximum}
    number = {name: limit for name, limit in limits.items() if limit is not None}
    if option.is_size:
        return {"anyOf": [{"type": "integer"} | number, {"type": "string", "pattern": _SIZE}]}
    if issubclass(option.kind, enum.Enum):
        return {"enum": [member.value for member in option.kind]}
    if option.kind is bool:
        return {"type": "boolean"}
    if option.kind in (int, float):
        return {"type": "integer" if option.kind is int else "number"} | number
    return {"type": "string"}


def schema_text() -> str:
    return json.dumps(schema(), indent=2) + "\n"
