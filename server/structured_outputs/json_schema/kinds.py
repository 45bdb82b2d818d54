"""Kinds of JSON values: JSON Schema's types, with numbers split into integers and fractions."""

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

NULL, BOOLEAN, INTEGER, FRACTION, STRING, ARRAY, OBJECT = (
    "null",
    "boolean",
    "integer",
    "fraction",  # a number that is not an integer
    "string",
    "array",
    "object",
)

Kinds = frozenset[str]

ALL: Kinds = frozenset({NULL, BOOLEAN, INTEGER, FRACTION, STRING, ARRAY, OBJECT})
NUMBERS: Kinds = frozenset({INTEGER, FRACTION})
TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")


def kinds_of_node(node: Mapping[str, Any]) -> Kinds:
    """Return the kinds of values that the schema's own `type`, `enum` and `const` allow."""
    kinds = ALL
    if "type" in node:
        kinds = kinds_of_types(node["type"])
    if "enum" in node:
        kinds &= kinds_of_values(node["enum"])
    if "const" in node:
        kinds &= {kind_of(node["const"])}
    return kinds


def kinds_of_types(types: str | Iterable[str]) -> Kinds:
    listed = [types] if isinstance(types, str) else types
    kinds: set[str] = set()
    for each in listed:
        kinds |= NUMBERS if each == "number" else {each}
    return frozenset(kinds)


def kinds_of_values(values: Iterable[Any]) -> Kinds:
    return frozenset(map(kind_of, values))


def types_of_kinds(kinds: Iterable[str]) -> list[str] | None:
    """Return the JSON Schema types of the kinds; None for fractions without integers, which no type expresses."""
    left = set(kinds)
    if left >= NUMBERS:
        left = left - NUMBERS | {"number"}
    return None if FRACTION in left else [each for each in TYPES if each in left]


def kind_of(value: Any) -> str:
    match value:
        case None:
            return NULL
        case bool():
            return BOOLEAN
        case int():
            return INTEGER
        case float():
            return INTEGER if value.is_integer() else FRACTION
        case str():
            return STRING
        case list():
            return ARRAY
    return OBJECT


def identity(value: Any) -> Hashable:
    """Return a hashable key that is the same only for equal JSON values: 1 equals 1.0, but not true."""
    match value:
        case list():
            return ("array", tuple(map(identity, value)))
        case dict():
            return ("object", frozenset((name, identity(item)) for name, item in value.items()))
        case bool():
            return ("boolean", value)
    return value if isinstance(value, str) else ("scalar", value)
