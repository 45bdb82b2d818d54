"""Checks of arguments that no grammar enforced: whether they match their schema, and whether they are placeholders.

The check knows the keywords for types, names, constants, limits and combinations, in the form that `prepare_schema`
writes. It ignores patterns, formats and multiples: Python's regular expressions differ from the grammars'.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from server.structured_outputs.json_schema.kinds import NUMBERS, identity, kind_of, kinds_of_types
from server.tools.format import Schema

_LIMITS: Mapping[str, Callable[[float, float], bool]] = {
    "minimum": lambda value, limit: value >= limit,
    "maximum": lambda value, limit: value <= limit,
    "exclusiveMinimum": lambda value, limit: value > limit,
    "exclusiveMaximum": lambda value, limit: value < limit,
}
_SIZES = (
    (str, "minLength", "maxLength"),
    (list, "minItems", "maxItems"),
    (dict, "minProperties", "maxProperties"),
)
# Placeholders as documentation writes them: your_username, YOUR-API-KEY, <your city>. "Your Name" is a film.
_PLACEHOLDER = re.compile(r"your[_-]\w+(?:[_-]\w+)*|<your[ _-][\w -]+>", re.IGNORECASE)


def json_fits(text: str, schema: Schema) -> bool:
    """Whether a value, given as JSON text, satisfies all keywords of the schema that this check knows."""
    definitions = {} if isinstance(schema, bool) else schema.get("$defs", {})
    try:
        return _fits(json.loads(text), schema, definitions)
    except RecursionError:
        return False  # deeper than any schema that is accepted


def _fits(value: Any, schema: Schema, definitions: Mapping[str, Schema]) -> bool:
    if isinstance(schema, bool):
        return schema
    if "type" in schema and kind_of(value) not in kinds_of_types(schema["type"]):
        return False
    constants = [schema["const"]] if "const" in schema else schema.get("enum")
    if constants is not None and identity(value) not in map(identity, constants):
        return False
    if (reference := schema.get("$ref")) is not None:
        name = reference.rpartition("/")[2]
        if not _fits(value, definitions.get(name, True), definitions):
            return False
    if not all(_fits(value, part, definitions) for part in schema.get("allOf", ())):
        return False
    if "anyOf" in schema and not any(_fits(value, part, definitions) for part in schema["anyOf"]):
        return False
    return _is_within(value, schema) and _has_fitting_parts(value, schema, definitions)


def _is_within(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a number, or the length of another value, is within the schema's limits."""
    if kind_of(value) in NUMBERS:
        return all(holds(value, schema[keyword]) for keyword, holds in _LIMITS.items() if keyword in schema)
    return all(
        schema.get(least, 0) <= len(value) <= schema.get(most, len(value))
        for kind, least, most in _SIZES
        if isinstance(value, kind)
    )


def _has_fitting_parts(value: Any, schema: Mapping[str, Any], definitions: Mapping[str, Schema]) -> bool:
    if isinstance(value, list):
        first: Sequence[Schema] = schema.get("prefixItems", ())
        schemas = [*first[: len(value)], *[schema.get("items", True)] * (len(value) - len(first))]
        return all(_fits(*pair, definitions) for pair in zip(value, schemas, strict=True))
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        # A name that a pattern may match has an unknown schema.
        other = True if "patternProperties" in schema else schema.get("additionalProperties", True)
        return all(name in value for name in schema.get("required", ())) and all(
            _fits(item, properties.get(name, other), definitions) for name, item in value.items()
        )
    return True


def has_placeholder(text: str) -> bool:
    """Whether a string in the JSON text is a placeholder, such as {"api_key": "your_api_key"}. The text must not be
    nested deeper than Python can parse."""
    pending: list[Any] = [json.loads(text)]
    while pending:
        value = pending.pop()
        if isinstance(value, str) and _PLACEHOLDER.fullmatch(value.strip()):
            return True
        if isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, list):
            pending += value
    return False
