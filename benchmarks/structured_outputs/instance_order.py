"""Spellings of an instance with its properties in the order of its schema, which grammars enforce."""

import json
from collections.abc import Iterator
from typing import Any

from engine.errors import HeadraceError
from server.structured_outputs.json_schema.preparation import prepare_schema


def spellings(instance: Any, schema: Any) -> Iterator[Any]:
    """Yield the instance unchanged, and with its properties in the schema's order, which both libraries enforce."""
    yield instance
    try:
        prepared: Any = prepare_schema(schema, param="schema", is_strict=False).schema
    except HeadraceError:
        return
    if isinstance(prepared, dict):
        ordered = _Order(prepared).of(instance, [prepared])
        if json.dumps(ordered) != json.dumps(instance):
            yield ordered


class _Order:
    """Order of properties in a prepared schema; of alternatives, in the one that the value matches."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._definitions = root.get("$defs", {})

    def of(self, value: Any, schemas: list[Any]) -> Any:
        parts = [part for schema in schemas for part in self._parts(schema, value)]
        if isinstance(value, list):
            return [self.of(item, [_of_item(part, index) for part in parts]) for index, item in enumerate(value)]
        if not isinstance(value, dict):
            return value
        listed = [name for part in parts for name in _names(part)]
        listed += [name for part in parts for name in part.get("required", ())]
        names = dict.fromkeys([*(name for name in listed if name in value), *value])
        return {
            name: self.of(value[name], [each for part in parts for each in _of_property(part, name)]) for name in names
        }

    def _parts(self, schema: Any, value: Any) -> Iterator[dict[str, Any]]:
        """Yield the schemas that apply to the value."""
        if not isinstance(schema, dict):
            return
        yield schema
        if "$ref" in schema:
            yield from self._parts(self._definitions[schema["$ref"].rpartition("/")[2]], value)
        for part in schema.get("allOf", ()):
            yield from self._parts(part, value)
        for part in schema.get("anyOf", ()):
            if self._is_valid(part, value):
                yield from self._parts(part, value)
                break
        for literal in [*schema.get("enum", ()), *([schema["const"]] if "const" in schema else [])]:
            if literal == value:
                yield from _parts_of_literal(literal)

    def _is_valid(self, schema: Any, value: Any) -> bool:
        from jsonschema import Draft202012Validator  # not a dependency of headrace

        rooted = {"allOf": [schema], "$defs": self._definitions}
        return bool(Draft202012Validator(rooted).is_valid(value))


def _parts_of_literal(literal: Any) -> Iterator[dict[str, Any]]:
    if isinstance(literal, dict):
        yield {"properties": {name: {"const": item} for name, item in literal.items()}}
    elif isinstance(literal, list):
        yield {"prefixItems": [{"const": item} for item in literal]}


def _names(part: dict[str, Any]) -> list[str]:
    return list(part.get("properties", {}))


def _of_item(part: dict[str, Any], index: int) -> Any:
    first = part.get("prefixItems", [])
    return first[index] if index < len(first) else part.get("items", True)


def _of_property(part: dict[str, Any], name: str) -> Iterator[Any]:
    if name in part.get("properties", {}):
        yield part["properties"][name]
    else:
        yield from part.get("patternProperties", {}).values()
        yield part.get("additionalProperties", True)
