"""Schemas of argument values in a format's own notation, such as Gemma 4's, and the keywords its grammar enforces."""

from functools import partial
from typing import Any

from server.schemas.base import Location
from server.tools.arguments.schemas import OUTSIDE, constants_of, schema_with_definitions, types_of
from server.tools.arguments.unenforced import unenforced_members
from server.tools.format import Schema

PLAIN_TYPES = frozenset(("integer", "number", "boolean"))  # written as in JSON
_NESTED_TYPES = frozenset(("array", "object"))
_FOLLOWED = OUTSIDE | {"type", "items", "minItems", "maxItems", "properties", "required", "additionalProperties"}


def scalar_constants(schema: Schema) -> list[Any]:
    """Return the schema's const or enum values; an empty list if it has none, or if one is an object or an array."""
    constants = constants_of(schema)
    return [] if any(isinstance(value, list | dict) for value in constants) else constants


def choices_of(schema: Schema) -> list[Schema]:
    """Return the alternatives of a schema that is only an anyOf, nested ones flattened; empty for other schemas."""
    found: list[Schema] = []
    seen: set[int] = set()  # an alternative that leads back to a seen anyOf adds nothing
    stack = [schema]
    while stack:
        node = stack.pop()
        if isinstance(node, bool) or node.keys() - OUTSIDE != {"anyOf"}:
            found.append(node)
        elif id(node["anyOf"]) not in seen:
            seen.add(id(node["anyOf"]))
            stack += [schema_with_definitions(schema, choice) for choice in reversed(node["anyOf"])]
    return found if seen else []


def item_schema(schema: Schema) -> Schema:
    if isinstance(schema, bool) or "prefixItems" in schema:
        return True
    return schema_with_definitions(schema, schema.get("items", True))


def item_counts(schema: Schema) -> tuple[int, int | None]:
    """Return the minimum and the maximum number of items of an array. A maximum of None means no limit."""
    return (0, None) if isinstance(schema, bool) else (schema.get("minItems", 0), schema.get("maxItems"))


def unenforced_value(schema: Schema, *, depth: int) -> list[Location]:
    """Return the paths of a value's keywords that the grammar does not enforce. depth: levels that it can enforce."""
    if isinstance(schema, bool) or scalar_constants(schema):
        return []
    if choices := choices_of(schema):
        is_whole = all(not unenforced_value(choice, depth=depth) for choice in choices)
        return [] if is_whole else [("anyOf",)]
    types = types_of(schema)
    if types and types <= PLAIN_TYPES:
        return []
    if depth == 0 and types & _NESTED_TYPES:
        return [(keyword,) for keyword in schema if keyword not in OUTSIDE]
    paths: list[Location] = [(keyword,) for keyword in schema if keyword not in _FOLLOWED]
    if depth == 0:
        return paths
    within = partial(unenforced_value, depth=depth - 1)
    if not types or "array" in types:
        paths += [("items", *path) for path in within(item_schema(schema))]
        paths += [("items",)] if "prefixItems" in schema and "items" in schema else []
    if ("object" in types or not types) and schema.keys() & {"properties", "required", "additionalProperties"}:
        members = unenforced_members(schema, within)
        paths += [path for path in members if path[0] in ("properties", "additionalProperties")]
    return paths
