"""Rules of the Berkeley Function Calling Leaderboard for right calls."""

import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.structured_outputs.bfcl_cases import Case, Schema, tool_name

_IGNORED = re.compile(r"[ ,./\-_*^]")  # in strings, as in BFCL


@dataclass(frozen=True, slots=True)
class Call:
    name: str
    arguments: str  # JSON text

    def parsed(self) -> dict[str, Any] | None:
        """Return the arguments, or None if they are not a JSON object."""
        try:
            value = json.loads(self.arguments)
        except json.JSONDecodeError:
            return None
        return value if isinstance(value, dict) else None


def find_fault(case: Case, calls: Sequence[Call]) -> str | None:
    """Return the first fault of the calls, or None. Their order is free, as in BFCL."""
    if len(calls) != len(case.answers):
        return f"{len(calls)} calls instead of {len(case.answers)}"
    left = list(calls)
    for answer in case.answers:
        ((name, accepted),) = answer.items()
        faults = [_call_fault(case, call, tool_name(name), accepted) for call in left]
        if None not in faults:
            return faults[0]
        del left[faults.index(None)]
    return None


def _call_fault(case: Case, call: Call, name: str, accepted: Mapping[str, Sequence[Any]]) -> str | None:
    if call.name != name:
        return f"called {call.name} instead of {name}"
    arguments = call.parsed()
    if arguments is None:
        return "the arguments are no JSON object"
    schema = case.schema(name) or {}
    properties = schema.get("properties", {})
    for key, value in arguments.items():
        if key not in properties or key not in accepted:
            return f"argument {key} is unexpected"
        if not _is_accepted(value, accepted[key], properties[key]):
            return f"argument {key} is {value!r}"
    for key, values in accepted.items():
        if key not in arguments and (key in schema.get("required", ()) or "" not in values):
            return f"argument {key} is missing"
    return None


def _is_accepted(value: Any, accepted: Sequence[Any], schema: Schema) -> bool:
    return any(_is_same(value, each, schema) for each in accepted)


def _is_same(value: Any, accepted: Any, schema: Schema) -> bool:
    if isinstance(value, str) and isinstance(accepted, str):
        return _bare(value) == _bare(accepted)
    if isinstance(value, list) and isinstance(accepted, list):
        items = schema.get("items", {})
        return len(value) == len(accepted) and all(map(_is_same, value, accepted, [items] * len(value)))
    if isinstance(value, dict) and isinstance(accepted, dict):
        return _is_same_object(value, accepted, schema.get("properties", {}))
    if isinstance(value, bool) or isinstance(accepted, bool):
        return value is accepted
    if isinstance(value, float) and schema.get("type") == "integer" and not isinstance(accepted, float):
        return False
    return bool(value == accepted)  # 5 is the same as 5.0


def _is_same_object(value: Mapping[str, Any], accepted: Mapping[str, Sequence[Any]], properties: Schema) -> bool:
    return all(
        key in accepted and _is_accepted(each, accepted[key], properties.get(key, {})) for key, each in value.items()
    ) and all(key in value or "" in values for key, values in accepted.items())


def _bare(text: str) -> str:
    return _IGNORED.sub("", text).lower().replace("'", '"')


def count_fitting(case: Case, calls: Sequence[Call]) -> int | None:
    """Return the number of calls whose arguments fit their tool's schema; None without the jsonschema package."""
    if importlib.util.find_spec("jsonschema") is None:
        return None
    from jsonschema import Draft202012Validator

    num_fitting = 0
    for call in calls:
        schema, arguments = case.schema(call.name), call.parsed()
        if schema is not None and arguments is not None:
            num_fitting += Draft202012Validator(schema).is_valid(arguments)
    return num_fitting
