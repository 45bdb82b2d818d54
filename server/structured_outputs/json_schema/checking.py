"""check_schema: checks that a client's value is a valid JSON schema, within limits of size and depth."""

import json
from collections.abc import Iterator
from typing import Any

from engine.errors import InvalidRequest
from server.schemas.base import Location, path_text, quote
from server.structured_outputs.json_schema.keywords import CONCERNS, check_shape, is_names
from server.structured_outputs.json_schema.kinds import kinds_of_node
from server.structured_outputs.json_schema.references import References

MAX_DEPTH = 64  # nested objects and lists
MAX_BYTES = 1 << 20  # of the schema's text

_ONE = (
    "additionalItems",
    "additionalProperties",
    "contains",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
)
_LISTED = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
_NAMED = ("dependencies", "dependentSchemas", "patternProperties", "properties")


def check_limits(schema: Any, location: Location) -> None:
    """Raise InvalidRequest if the schema is nested too deeply or too large."""
    depth, level = 0, [schema]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        if depth > MAX_DEPTH:
            path = path_text(location)
            raise InvalidRequest(
                f"{path} is nested more than {MAX_DEPTH} levels deep, which is the limit; put inner schemas into $defs "
                "and refer to them",
                param=path,
            )
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    size = len(json.dumps(schema, separators=(",", ":"), ensure_ascii=False).encode())
    if size > MAX_BYTES:
        path = path_text(location)
        raise InvalidRequest(f"{path} has {size:,} bytes; the limit is {MAX_BYTES:,}; shorten it", param=path)


def check_schema(root: Any, location: Location, references: References) -> None:
    """Raise InvalidRequest if a keyword's value is invalid, in the root or in a schema that it contains or refers to.

    Keywords that do not apply to the schema's type may have any value.
    """
    seen: set[int] = set()
    stack: list[tuple[Location, Any]] = [(location, root)]
    while stack:
        place, node = stack.pop()
        if isinstance(node, bool) or id(node) in seen:
            continue
        seen.add(id(node))
        if not isinstance(node, dict):
            path = path_text(place)
            raise InvalidRequest(f"{path} is {quote(node)}; a schema must be an object, true or false", param=path)
        for keyword in ("type", "enum"):
            if keyword in node:
                check_shape(node, keyword, place)
        kinds = kinds_of_node(node)
        for keyword in node:
            if CONCERNS.get(keyword, kinds) & kinds:
                check_shape(node, keyword, place)
        stack += _subschemas(node, place)
        if "$ref" in node:
            stack.append(references.resolve(node["$ref"], (*place, "$ref")))


def _subschemas(node: dict[str, Any], place: Location) -> Iterator[tuple[Location, Any]]:
    kinds = kinds_of_node(node)
    for keyword, value in node.items():
        if not CONCERNS.get(keyword, kinds) & kinds:
            continue
        if keyword in _LISTED and isinstance(value, list):
            yield from (((*place, keyword, index), item) for index, item in enumerate(value))
        elif keyword in _ONE:
            yield (*place, keyword), value
        elif keyword in _NAMED:
            # Some values of `dependencies` are lists of names.
            yield from (((*place, keyword, name), item) for name, item in value.items() if not is_names(item))
