"""json_fits: the values that a schema excludes, besides the checks of the tests' validator."""

import json
from typing import Any

import pytest

from server.structured_outputs.json_schema.preparation import prepare_schema
from server.tools.reading.argument_checks import json_fits

pytestmark = pytest.mark.fast

_TREE = {
    "$ref": "#/$defs/tree",
    "$defs": {
        "tree": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
            },
            "required": ["value"],
            "additionalProperties": False,
        }
    },
}
_POINT = {"type": "object", "properties": {"x": {"type": "number"}, "y": {"type": "number"}}, "required": ["x"]}


@pytest.mark.parametrize(
    ("schema", "fitting", "others"),
    [
        (True, ["{}", "[1]"], []),
        ({"type": "integer"}, ["1", "2.0", "-3"], ["1.5", "true", '"1"', "null"]),
        ({"type": "number"}, ["1", "1.5"], ["true", '"1"']),
        ({"type": ["string", "null"]}, ['"a"', "null"], ["1", "[]"]),
        ({"type": "boolean"}, ["true"], ["1", "0", '"true"']),
        ({"enum": ["a", 1, None]}, ['"a"', "1", "1.0", "null"], ['"b"', "true", "2"]),
        ({"const": {"a": [1]}}, ['{"a": [1]}'], ['{"a": [true]}', '{"a": [1], "b": 2}']),
        ({"minimum": 2, "maximum": 5}, ["2", "5", '"z"'], ["1", "5.5"]),
        ({"exclusiveMinimum": 2, "exclusiveMaximum": 5}, ["3"], ["2", "5"]),
        ({"type": "string", "minLength": 2, "maxLength": 3}, ['"ab"', '"abc"'], ['"a"', '"abcd"']),
        ({"items": {"type": "integer"}, "minItems": 1, "maxItems": 2}, ["[1]", "[1, 2]"], ["[]", "[1, 2, 3]", '["a"]']),
        ({"prefixItems": [{"type": "string"}], "items": {"type": "null"}}, ["[]", '["a", null]'], ["[1]", '["a", 1]']),
        (_POINT, ['{"x": 1}', '{"x": 1, "y": 2, "z": []}'], ["{}", '{"y": 1}', '{"x": "1"}']),
        ({**_POINT, "additionalProperties": False}, ['{"x": 1}'], ['{"x": 1, "z": 2}']),
        ({**_POINT, "additionalProperties": {"type": "string"}}, ['{"x": 1, "z": "2"}'], ['{"x": 1, "z": 2}']),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, ['"a"', "1"], ["null"]),
        ({"allOf": [_POINT, {"required": ["y"]}]}, ['{"x": 1, "y": 2}'], ['{"x": 1}']),
        (_TREE, ['{"value": 1, "children": [{"value": 2}]}'], ['{"value": 1, "children": [{}]}', "[]"]),
        ({"type": "string", "pattern": "^a"}, ['"a"', '"b"'], ["1"]),
    ],
)  # fmt: skip
def test_a_value_fits_what_its_schema_says(schema: Any, fitting: list[str], others: list[str]) -> None:
    prepared = prepare_schema(schema, param="schema", is_strict=False).schema
    assert [text for text in [*fitting, *others] if json_fits(text, prepared)] == fitting


def test_a_value_of_any_depth_is_looked_at() -> None:
    deep = "[" * 100_000 + "]" * 100_000
    assert not json_fits(deep, {"type": "array"})


def test_names_that_a_pattern_may_match_are_not_looked_at() -> None:
    schema = {"type": "object", "patternProperties": {"^x_": {"type": "string"}}, "additionalProperties": False}
    assert json_fits(json.dumps({"x_a": 1}), schema)
