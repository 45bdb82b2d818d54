"""Keywords of an argument's schema that the grammars of formats without JSON do not enforce."""

from collections.abc import Callable, Mapping

from server.schemas.base import Location
from server.tools.arguments.schemas import (
    OUTSIDE,
    constants_of,
    json_value,
    object_schema,
    property_schema,
    types_of,
    value_text,
)
from server.tools.format import Schema

_MEMBERS = OUTSIDE | {"type", "properties", "required", "additionalProperties"}  # keywords that describe members


def unenforced_members(schema: Schema, value: Callable[[Schema], list[Location]]) -> list[Location]:
    """Return the paths of unenforced keywords in the schema of an object whose members are written one by one.

    value: returns the paths of unenforced keywords in a member's schema.
    """
    schema = object_schema(schema)
    if isinstance(schema, bool):
        return []
    paths: list[Location] = [(keyword,) for keyword in schema if keyword not in _MEMBERS]
    if "properties" not in schema:
        return [*paths, *(("additionalProperties", *path) for path in value(property_schema(schema, "")))]
    for key in schema["properties"]:
        paths += [("properties", key, *path) for path in value(property_schema(schema, key))]
    return paths


def unenforced_text(schema: Schema) -> list[Location]:
    """Return the paths of unenforced keywords in formats without quotes, where the schema tells strings apart."""
    types = types_of(schema)
    if isinstance(schema, bool) or (types and "string" not in types):
        return []
    if constants := constants_of(schema):
        is_readable = all(json_value(value_text(value), schema) in map(_value_json, constants) for value in constants)
        return [] if is_readable else [("enum",)]
    keywords = schema.keys() - OUTSIDE - {"type"}
    if keywords == {"anyOf"} and all(_is_type_alone(choice) for choice in schema["anyOf"]):
        return []
    return [(keyword,) for keyword in schema if keyword in keywords]


def unenforced_string(schema: Schema) -> list[Location]:
    """Return the paths of unenforced keywords in formats without quotes, where a tag marks a value as a string."""
    return [] if constants_of(schema) else unenforced_text(schema)


def _value_json(value: object) -> str:
    """Return the value as JSON text in the spelling of `json_value`, so that results of both can be compared."""
    return json_value(value_text(value), {"type": "string"} if isinstance(value, str) else True)


def _is_type_alone(schema: object) -> bool:
    return isinstance(schema, Mapping) and schema.keys() == {"type"}
