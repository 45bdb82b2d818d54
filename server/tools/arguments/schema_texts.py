"""Property names and string constants in a schema of arguments, which a format may be unable to write."""

from collections.abc import Iterator, Mapping
from typing import Any

_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions"})  # map names to schemas


def property_names(schema: object) -> Iterator[str]:
    """Yield the names of the properties of all objects in the schema, at any depth."""
    for node in _schemas_within(schema):
        yield from node.get("properties", ())
        yield from node.get("required", ())


def constant_texts(schema: object) -> Iterator[str]:
    """Yield the strings in all const and enum values of the schema, at any depth."""
    stack: list[Any] = []
    for node in _schemas_within(schema):
        stack += [node["const"]] if "const" in node else node.get("enum", ())
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            stack += [*value, *value.values()]
        elif isinstance(value, list):
            stack += value


def _schemas_within(schema: object) -> Iterator[Mapping[str, Any]]:
    stack = [schema]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack += node
        if not isinstance(node, Mapping):
            continue
        yield node
        for keyword, value in node.items():
            if keyword in _NAMED:
                stack += value.values()
            elif keyword not in ("const", "enum"):
                stack.append(value)
