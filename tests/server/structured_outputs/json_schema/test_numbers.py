"""Numbers that the grammar would take for others are listed or refused, and ranges that leave nothing."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InvalidRequest, UnsupportedParameter
from server.structured_outputs.json_schema.numbers import MAX_SIZE
from server.structured_outputs.json_schema.preparation import prepare_schema
from tests.server.structured_outputs.conftest import Accepts

pytestmark = pytest.mark.fast

_EXACT = 1 << 53
_INT64 = 1 << 63


def _integer(**keywords: Any) -> dict[str, Any]:
    return {"type": "integer", **keywords}


def _number(**keywords: Any) -> dict[str, Any]:
    return {"type": "number", **keywords}


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"enum": [1234567890123456789]}, "enum"),
        ({"enum": [-_INT64]}, "enum"),
        ({"enum": [[{"a": _EXACT + 1}], "b"]}, "enum"),
        ({"const": _EXACT + 1}, "const"),
        (_integer(minimum=-_INT64), "minimum"),
        (_integer(minimum=-_INT64 - 5, maximum=5), "minimum"),
        (_integer(maximum=10**40), "maximum"),
        (_integer(maximum=_EXACT + 1), "maximum"),
        (_integer(maximum=_INT64), "maximum"),
        (_integer(maximum=-(10**18)), "maximum"),
        (_integer(minimum=10**18), "minimum"),
        (_integer(exclusiveMaximum=_EXACT + 2), "exclusiveMaximum"),
        (_integer(exclusiveMinimum=True, minimum=_EXACT + 2), "minimum"),
        (_number(maximum=_EXACT + 2), "maximum"),
        (_number(maximum=_INT64 - 1), "maximum"),
        (_number(minimum=1e20), "minimum"),
        (_number(exclusiveMaximum=1.797e308), "exclusiveMaximum"),
        (_number(exclusiveMinimum=True, minimum=10**400), "minimum"),
        (_number(maximum=0.9999999999999999), "maximum"),
        (_number(minimum=1e-300), "minimum"),
        (_integer(multipleOf=10**9), "multipleOf"),
        (_integer(multipleOf=2**31 - 1), "multipleOf"),
        (_number(multipleOf=0.07), "multipleOf"),
        (_number(multipleOf=1e20), "multipleOf"),
        ({"not": _number(minimum=_EXACT + 1)}, "not"),
        ({"not": {"enum": [_EXACT + 1]}}, "not"),
        ({"type": "array", "items": {"enum": [_EXACT + 1, 2]}, "uniqueItems": True}, "uniqueItems"),
    ],
)
def test_inexact_number_is_listed_or_refused_under_strict(schema: Any, keyword: str) -> None:
    path = f"schema.{keyword}"

    assert path in prepare_schema(schema, param="schema", is_strict=False).ignored
    with pytest.raises(UnsupportedParameter) as caught:
        prepare_schema(schema, param="schema", is_strict=True)
    assert caught.value.param is not None
    assert caught.value.param.startswith("schema.")


def test_listed_number_leaves_the_rest_enforced(accepts: Accepts) -> None:
    assert accepts(_integer(minimum=-_INT64, maximum=5), -_INT64, is_strict=False)
    assert not accepts(_integer(minimum=-_INT64, maximum=5), 6, is_strict=False)
    assert accepts({"enum": ["a", _INT64]}, _INT64, is_strict=False)
    assert not accepts({"enum": ["a", _INT64]}, None, is_strict=False)


@pytest.mark.parametrize(
    ("schema", "value", "other"),
    [
        ({"enum": [_EXACT, "a"]}, _EXACT, _EXACT + 1),
        ({"const": -0.0}, 0, 1),
        (_integer(minimum=-_EXACT, maximum=_EXACT), -_EXACT, _EXACT + 1),
        (_integer(minimum=0, maximum=_INT64 - 1), _INT64 - 1, _INT64),
        (_integer(minimum=0, maximum=1 << 60), 1 << 60, (1 << 60) + 1),
        (_integer(minimum=10**17, maximum=10**18), 10**17, 10**17 - 1),
        (_integer(minimum=-_INT64 + 1024), -_INT64 + 1024, -_INT64 + 1023),
        (_integer(maximum=1e17), 10**17, 10**17 + 1),
        (_number(maximum=_EXACT), 0.5, _EXACT + 1),
        (_number(minimum=0.123456789012345), 0.123456789012345, 0.123456789012344),
        (_integer(multipleOf=1000), 3000, 3001),
        (_number(multipleOf=0.01), 0.35, 0.355),
        ({"type": "string", "maxLength": 1e30}, "abc", 1),
        ({"type": "array", "maxItems": 10**30}, [1], 1),
        ({"type": "object", "maxProperties": 10**30, "properties": {"a": True}}, {"b": 1}, 1),
        ({"not": {"type": "array", "maxItems": 10**30}}, 1, [1]),
    ],
)
def test_exact_number_is_enforced(accepts: Accepts, schema: Any, value: Any, other: Any) -> None:
    assert accepts(schema, value)
    assert not accepts(schema, other)


_LARGE = st.integers(-(10**18), 10**18) | st.integers(-_INT64, _INT64)


@given(_LARGE, _LARGE)
def test_a_range_of_large_integers_is_enforced_to_the_last_one_or_refused(
    accepts: Accepts, first: int, second: int
) -> None:
    low, high = sorted(int(float(limit)) for limit in (first, second))
    schema = _integer(minimum=low, maximum=high)
    try:
        allowed = {value for value in (low - 1, low, high, high + 1) if accepts(schema, value)}
    except UnsupportedParameter:
        assert max(abs(low), abs(high)) >= 10**18
    else:
        assert allowed == {low, high}


def test_least_size_that_no_answer_has_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        prepare_schema({"minLength": MAX_SIZE + 1}, param="schema", is_strict=False)
    assert caught.value.param == "schema.minLength"


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        (_number(minimum=5, maximum=3), "maximum"),
        (_number(minimum=3, exclusiveMaximum=3), "exclusiveMaximum"),
        (_number(minimum=3, maximum=3, exclusiveMaximum=True), "maximum"),
        (_integer(minimum=1.2, maximum=1.8), "maximum"),
        (_integer(exclusiveMinimum=1, exclusiveMaximum=2), "exclusiveMaximum"),
        ({"type": "array", "minItems": 3, "maxItems": 2}, "maxItems"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "maxLength"),
        ({"type": "object", "minProperties": 3, "maxProperties": 2}, "maxProperties"),
        ({"type": "array", "contains": {}, "minContains": 3, "maxContains": 2}, "maxContains"),
        ({"type": "array", "contains": {}, "maxContains": 0}, "maxContains"),
        (_number(allOf=[{"minimum": 5}, {"allOf": [{"maximum": 3}]}]), "allOf"),
        ({"type": "array", "minItems": 2, "allOf": [{"maxItems": 1}]}, "allOf"),
        (_integer(const=1.5), "const"),
        ({"type": "string", "enum": [1, 2]}, "enum"),
        ({"const": 1, "enum": [2, 3]}, "const"),
    ],
)
def test_contradiction_is_refused_by_its_path(schema: Any, keyword: str) -> None:
    required = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    for whole, path in ((schema, f"schema.{keyword}"), (required, f"schema.properties.a.{keyword}")):
        with pytest.raises(InvalidRequest) as caught:
            prepare_schema(whole, param="schema", is_strict=False)
        assert caught.value.param == path
        assert "ref" not in str(caught.value)


def test_contradiction_leaves_other_values(accepts: Accepts) -> None:
    assert accepts({"allOf": [{"type": "string", "minimum": "any"}, {"maximum": 1}]}, "a")
    assert accepts({"minimum": 5, "maximum": 3}, "a")
    assert not accepts({"minimum": 5, "maximum": 3}, 4)
    assert accepts({"anyOf": [_number(minimum=5, maximum=3), {"type": "null"}]}, None)
    assert accepts({"properties": {"a": {"type": "array", "minItems": 2, "maxItems": 1}}}, {"b": 1})
