"""Keywords that the grammar lacks are written with those that it has."""

from typing import Any

import pytest

from tests.server.structured_outputs.conftest import Accepts

pytestmark = pytest.mark.fast

_CIRCLE = {"type": "object", "properties": {"kind": {"const": "circle"}}, "required": ["kind"]}
_SQUARE = {"type": "object", "properties": {"kind": {"const": "square"}, "side": {"type": "integer"}}}
_OPTIONAL = {"properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}

# A schema, values that it allows, and values that it does not.
_CASES: dict[str, tuple[Any, list[Any], list[Any]]] = {
    "not of a type": ({"not": {"type": "string"}}, [1, None, {}], ["x"]),
    "not of an enum": ({"type": "string", "not": {"enum": ["a", "ab"]}}, ["", "b", "abc"], ["a", "ab"]),
    "not of numbers": ({"type": "integer", "not": {"enum": [1, 3]}}, [0, 2, 4], [1, 3]),
    "not of required": ({"type": "object", "not": {"required": ["a", "b"]}}, [{}, {"a": 1}], [{"a": 1, "b": 1}]),
    "not of not": ({"not": {"not": {"type": "integer"}}}, [1], ["x"]),
    "not of a reference": ({"not": {"$ref": "#/$defs/a"}, "$defs": {"a": {"minLength": 2}}}, ["x"], ["xx", 1]),
    "not of anyOf": ({"not": {"anyOf": [{"type": "null"}, {"minimum": 3}]}}, [2], [None, 3, "x"]),
    "not of contains": ({"type": "array", "not": {"contains": {"type": "null"}}}, [[], [1]], [[None], [1, None]]),
    "not of properties": (
        {"type": "object", "not": {"properties": {"a": {"type": "string"}}}},
        [{"a": 1}],
        [{}, {"a": "x"}],
    ),
    "oneOf types": ({"oneOf": [{"type": "string"}, {"type": "null"}]}, ["x", None], [1]),
    "oneOf with a mark": ({"oneOf": [_CIRCLE, _SQUARE]}, [{"kind": "circle"}, {"kind": "square"}], [{"kind": "x"}]),
    "oneOf required": (
        {"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
        [{"a": 1}, {"b": 1, "c": 2}],
        [{}, {"a": 1, "b": 1}],
    ),
    "oneOf that overlap": ({"oneOf": [{"minimum": 2}, {"maximum": 3}]}, [1, 4.5], [2.5, 3, "x"]),
    "if, then, else": (
        {
            "type": "object",
            "if": {"properties": {"kind": {"const": "a"}}, "required": ["kind"]},
            "then": {"required": ["x"]},
            "else": {"required": ["y"]},
        },
        [{"kind": "a", "x": 1}, {"y": 1}, {"kind": "b", "y": 1}],
        [{"kind": "a"}, {"kind": "b"}, {"x": 1}],
    ),
    "dependentRequired": ({"dependentRequired": {"a": ["b"]}}, [{}, {"a": 1, "b": 1}, {"b": 1}, 3], [{"a": 1}]),
    "dependencies": ({"dependencies": {"a": {"required": ["b"]}}}, [{}, {"a": 1, "b": 1}], [{"a": 1}]),
    "propertyNames": ({"type": "object", "propertyNames": {"pattern": "^x"}}, [{}, {"xa": 1}], [{"a": 1}]),
    "propertyNames by length": ({"type": "object", "propertyNames": {"maxLength": 2}}, [{"ab": 1}], [{"abc": 1}]),
    "minProperties": ({**_OPTIONAL, "type": "object", "minProperties": 1}, [{"a": 1}, {"b": 2}, {"c": 3}], [{}]),
    "maxProperties": (
        {**_OPTIONAL, "type": "object", "maxProperties": 1},
        [{}, {"a": 1}, {"c": 3}],
        [{"a": 1, "b": 2}, {"a": 1, "c": 3}],
    ),
    "minProperties of many": (
        {**_OPTIONAL, "type": "object", "minProperties": 2, "additionalProperties": False},
        [{"a": 1, "b": 2}],
        [{}, {"a": 1}, {"b": 1}],
    ),
    "uniqueItems of an enum": (
        {"type": "array", "items": {"enum": ["a", "b"]}, "uniqueItems": True},
        [[], ["a"], ["b", "a"]],
        [["a", "a"], ["a", "b", "a"]],
    ),
    "contains anything": ({"type": "array", "contains": {}, "maxContains": 2}, [[1], [1, 2]], [[], [1, 2, 3]]),
    "unevaluatedProperties": (
        {"type": "object", "properties": {"a": {}}, "unevaluatedProperties": False},
        [{}, {"a": 1}],
        [{"b": 1}],
    ),
}


@pytest.mark.parametrize("case", _CASES)
def test_rewritten_schema_is_equivalent(accepts: Accepts, case: str) -> None:
    schema, allowed, refused = _CASES[case]

    assert [value for value in allowed if not accepts(schema, value)] == []
    assert [value for value in refused if accepts(schema, value)] == []


def test_conditions_leave_the_order_of_properties_alone(accepts: Accepts) -> None:
    schema = {
        "type": "object",
        "dependentRequired": {"b": ["a"]},
        "oneOf": [{"required": ["c"]}, {"required": ["b"]}],
        "properties": {"a": {}, "b": {}, "c": {}},
    }

    assert accepts(schema, {"a": 1, "b": 2})
    assert not accepts(schema, {"b": 2, "a": 1})


def test_names_of_an_enum_can_be_counted(accepts: Accepts) -> None:
    schema = {"type": "object", "propertyNames": {"enum": ["a", "b", "c"]}, "minProperties": 1, "maxProperties": 2}

    assert accepts(schema, {"a": 1})
    assert accepts(schema, {"a": 1, "c": 1})
    assert not accepts(schema, {})
    assert not accepts(schema, {"a": 1, "b": 1, "c": 1})
    assert not accepts(schema, {"d": 1})
