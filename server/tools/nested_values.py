"""Values that are written neither as JSON nor as plain text: what a grammar follows of their schemas, and what not."""

from functools import partial
from typing import Any

from server.schemas.base import Location
from server.tools.tagged_values import OUTSIDE, Schema, constants_of, schema_with_definitions, types_of
from server.tools.unenforced import unenforced_members

PLAIN_TYPES = frozenset(("integer", "number", "boolean"))  # which are written as in JSON
_NESTED_TYPES = frozenset(("array", "object"))
_FOLLOWED = OUTSIDE | {"type", "items", "minItems", "maxItems", "properties", "required", "additionalProperties"}


def scalar_constants(schema: Schema) -> list[Any]:
    """The values that the schema allows, where these are few and none has others within; none: all."""
    constants = constants_of(schema)
    return [] if any(isinstance(value, list | dict) for value in constants) else constants


def choices_of(schema: Schema) -> list[Schema]:
    """The alternatives of a schema that says no more than that there are some; none where it is another."""
    found: list[Schema] = []
    seen: set[int] = set()  # an alternative that leads back to all adds nothing
    stack = [schema]
    while stack:
        node = stack.pop()
        if isinstance(node, bool) or node.keys() - OUTSIDE != {"anyOf"}:
            found.append(node)
        elif id(node["anyOf"]) not in seen:
            seen.add(id(node["anyOf"]))
            stack += [schema_with_definitions(schema, choice) for choice in reversed(node["anyOf"])]
    return found if seen else []


def items_of(schema: Schema) -> Schema:
    if isinstance(schema, bool) or "prefixItems" in schema:
        return True
    return schema_with_definitions(schema, schema.get("items", True))


def item_counts(schema: Schema) -> tuple[int, int | None]:
    """The fewest and the most items of an array; None: any number."""
    return (0, None) if isinstance(schema, bool) else (schema.get("minItems", 0), schema.get("maxItems"))


def unenforced_value(schema: Schema, *, depth: int) -> list[Location]:
    """depth: levels of values within that the grammar follows."""
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
        paths += [("items", *path) for path in within(items_of(schema))]
        paths += [("items",)] if "prefixItems" in schema and "items" in schema else []
    if ("object" in types or not types) and schema.keys() & {"properties", "required", "additionalProperties"}:
        members = unenforced_members(schema, within)
        paths += [path for path in members if path[0] in ("properties", "additionalProperties")]
    return paths
