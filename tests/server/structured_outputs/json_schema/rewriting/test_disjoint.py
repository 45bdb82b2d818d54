"""Disjointness: what it proves, and what it must not."""

from typing import Any

import pytest

from server.structured_outputs.json_schema.kinds import OBJECT
from server.structured_outputs.json_schema.rewriting.disjoint import Disjointness

pytestmark = pytest.mark.fast

_DEFS: dict[str, Any] = {"text": {"type": "string"}, "cat": {"properties": {"is": {"const": "cat"}}}}


@pytest.fixture
def disjointness() -> Disjointness:
    return Disjointness(lambda reference: _DEFS[reference.removeprefix("#/$defs/")])


def _marked(value: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"is": {"const": value}}, "required": ["is"]}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (False, True),
        ({"type": "string"}, {"type": ["null", "number"]}),
        ({"$ref": "#/$defs/text"}, {"type": "null"}),
        ({"enum": ["a", 1]}, {"enum": ["b", 2, True]}),
        ({"const": "abc"}, {"type": "string", "maxLength": 2}),
        ({"type": "integer", "maximum": 3}, {"type": "number", "exclusiveMinimum": 3}),
        ({"type": "array", "minItems": 2}, {"type": "array", "maxItems": 1}),
        (_marked("cat"), _marked("dog")),
        (_marked("dog"), {"type": "object", "$ref": "#/$defs/cat"}),
        (_marked("cat"), {"type": "object", "properties": {"a": {}}, "additionalProperties": False}),
        ({"anyOf": [{"type": "null"}, _marked("cat")]}, {"allOf": [_marked("dog"), {"minProperties": 2}]}),
        (_marked("a"), {"type": "object", "patternProperties": {"^(is|was)$": {"type": "null"}}}),
    ],
)
def test_disjoint_schemas_are_proved_so(disjointness: Disjointness, first: Any, second: Any) -> None:
    assert disjointness.holds(first, second)
    assert disjointness.holds(second, first)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (True, True),
        ({"type": "integer"}, {"type": "number"}),
        ({"enum": ["a", 1]}, {"enum": ["b", 1.0]}),
        ({"const": "ab"}, {"type": "string", "maxLength": 2}),
        ({"type": "integer", "maximum": 3}, {"type": "integer", "minimum": 3}),
        ({"properties": {"is": {"const": "a"}}, "required": ["is"]}, {"properties": {"is": {"const": "b"}}}),
        ({"type": "object", "properties": {"is": {"const": "a"}}}, {"type": "object", "$ref": "#/$defs/cat"}),
        (_marked("a"), {"type": "object", "patternProperties": {"^i": True}, "additionalProperties": False}),
    ],
)
def test_schemas_that_share_an_instance_are_not(disjointness: Disjointness, first: Any, second: Any) -> None:
    assert not disjointness.holds(first, second)
    assert not disjointness.holds(second, first)


def test_kinds_that_cannot_come_do_not_matter(disjointness: Disjointness) -> None:
    first, second = ({"properties": {"is": {"const": name}}, "required": ["is"]} for name in ("a", "b"))

    assert disjointness.holds(first, second, frozenset({OBJECT}))


def test_many_marked_objects_are_told_apart_at_once(disjointness: Disjointness) -> None:
    assert disjointness.all_hold([_marked(str(index)) for index in range(2_000)])


@pytest.mark.parametrize(
    "other", [_marked("a"), {"type": "object", "required": ["is"]}, {"properties": {"is": {"const": "c"}}}]
)
def test_objects_are_not_told_apart_without_marks_of_their_own(disjointness: Disjointness, other: Any) -> None:
    assert not disjointness.all_hold([_marked("a"), _marked("b"), other])
