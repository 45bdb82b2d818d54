"""What grammars of formats without JSON leave out of a schema of arguments."""

from collections.abc import Callable, Mapping

from server.schemas.base import Location
from server.tools.tagged_values import (
    OUTSIDE,
    Schema,
    constants_of,
    json_value,
    object_schema,
    property_schema,
    types_of,
    value_text,
)

_MEMBERS = OUTSIDE | {"type", "properties", "required", "additionalProperties"}  # keywords that say what members are


def unenforced_members(schema: Schema, value: Callable[[Schema], list[Location]]) -> list[Location]:
    """Of an object whose members are written one by one; value: what is left out of a member's schema."""
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
    """Of a value that is written without quotes if it is a string, and must be told from others by its schema."""
    types = types_of(schema)
    if isinstance(schema, bool) or (types and "string" not in types):
        return []
    if constants := constants_of(schema):
        is_told = all(json_value(value_text(value), schema) in map(_value_json, constants) for value in constants)
        return [] if is_told else [("enum",)]
    keywords = schema.keys() - OUTSIDE - {"type"}
    if keywords == {"anyOf"} and all(_is_type_alone(choice) for choice in schema["anyOf"]):
        return []
    return [(keyword,) for keyword in schema if keyword in keywords]


def unenforced_string(schema: Schema) -> list[Location]:
    """Of a value that is written without quotes if it is a string, and told from others by its tag."""
    return [] if constants_of(schema) else unenforced_text(schema)


def _value_json(value: object) -> str:
    """As json_value spells it."""
    return json_value(value_text(value), {"type": "string"} if isinstance(value, str) else True)


def _is_type_alone(schema: object) -> bool:
    return isinstance(schema, Mapping) and schema.keys() == {"type"}
