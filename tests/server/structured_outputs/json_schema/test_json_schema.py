"""prepare_schema: what it takes, lists and refuses."""

import json
from typing import Any

import pytest

from engine.errors import InvalidRequest, UnsupportedParameter
from server.structured_outputs.grammar import GrammarBuilder
from server.structured_outputs.json_schema.preparation import ANY_WHITESPACE, PreparedSchema, prepare_schema
from tests.server.structured_outputs.conftest import SPECIAL_IDS, Accepts, Matches

pytestmark = pytest.mark.fast

_PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
}


def _prepare(schema: Any, *, is_strict: bool = False, whitespace: str | None = None) -> PreparedSchema:
    return prepare_schema(schema, param="schema", is_strict=is_strict, whitespace=whitespace)


def _refusal(schema: Any, *, is_strict: bool = False) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        _prepare(schema, is_strict=is_strict)
    return caught.value


def test_usual_schema_is_taken_as_it_is(accepts: Accepts) -> None:
    assert _prepare(_PERSON).ignored == []
    assert accepts(_PERSON, {"name": "Ann", "age": 3})
    assert accepts(_PERSON, {"name": "Ann", "more": [1]})
    assert not accepts(_PERSON, {"age": 3})
    assert not accepts(_PERSON, {"name": "Ann", "age": -1})


def test_schema_may_be_true_and_not_false(accepts: Accepts) -> None:
    assert accepts(True, {"any": [None]})
    assert _refusal(False).param == "schema"


@pytest.mark.parametrize("whitespace", [None, " ", ANY_WHITESPACE])
def test_whitespace_is_none_unless_given(matches: Matches, whitespace: str | None) -> None:
    builder = GrammarBuilder(SPECIAL_IDS)
    prepared = _prepare({"type": "object"}, whitespace=whitespace)
    grammar = builder.build(builder.json(prepared.schema))

    assert matches(grammar, '{"a":[1,2]}')
    assert matches(grammar, '{"a": [1, 2]}') is (whitespace is not None)
    assert matches(grammar, '{"a":\n\t1}') is (whitespace == ANY_WHITESPACE)
    assert not matches(grammar, '{"a":' + " " * 40 + "1}")


@pytest.mark.parametrize("name", ["", 'quote " here', "two\nlines", "back\\slash", "é", "😀", "$ref", "a/b~c", "\x00"])
def test_property_names_may_have_any_characters(accepts: Accepts, name: str) -> None:
    schema = {"type": "object", "properties": {name: {"const": 1}}, "required": [name], "additionalProperties": False}

    assert accepts(schema, {name: 1}) or name == "\x00"  # JSON spells this one in two ways
    assert not accepts(schema, {name: 2})
    assert not accepts(schema, {})


def test_property_may_be_named_as_a_keyword(accepts: Accepts) -> None:
    schema = {"type": "object", "properties": {"not": {"type": "string"}, "oneOf": {"type": "null"}}}

    assert accepts(schema, {"not": "x", "oneOf": None})


# --- What is listed


@pytest.mark.parametrize("is_strict", [False, True])
def test_unknown_format_is_an_annotation(is_strict: bool) -> None:
    schema = {"type": "object", "properties": {"email": {"type": "string", "format": "e-mail"}}}

    assert _prepare(schema, is_strict=is_strict).ignored == ["schema.properties.email.format"]


@pytest.mark.parametrize(
    ("name", "value", "other"),
    [
        ("date", "2024-02-29", "2024-02-30"),
        ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123"),
        ("ipv4", "127.0.0.1", "127.0.0.256"),
        ("json-pointer", "/a/~0b", "a"),
        ("relative-json-pointer", "1/a", "/a"),
        ("uri-reference", "../a?b#c", "://"),
    ],
)
def test_known_format_is_enforced(accepts: Accepts, name: str, value: str, other: str) -> None:
    schema = {"type": "string", "format": name}

    assert _prepare(schema, is_strict=True).ignored == []
    assert accepts(schema, value)
    assert not accepts(schema, other)


def test_keyword_without_meaning_is_listed() -> None:
    assert _prepare({"type": "string", "minlength": 3}, is_strict=True).ignored == ["schema.minlength"]
    assert _prepare({"type": "string", "title": "A", "x-order": 1, "default": "b"}).ignored == []


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"type": "array", "uniqueItems": True}, "schema.uniqueItems"),
        ({"type": "array", "contains": {"type": "null"}}, "schema.contains"),
        ({"not": {"pattern": "a"}}, "schema.not"),
        ({"oneOf": [{"pattern": "a"}, {"pattern": "b"}]}, "schema.oneOf"),
        ({"if": {"multipleOf": 3}, "then": {"minimum": 9}}, "schema.if"),
        ({"type": "string", "pattern": "(?=a)"}, "schema.pattern"),
        ({"type": "string", "pattern": "a^b"}, "schema.pattern"),
        ({"type": "string", "pattern": r"^a\Z"}, "schema.pattern"),
        ({"propertyNames": {"pattern": "a^b"}}, "schema.propertyNames"),
        ({"propertyNames": {"format": "date"}}, "schema.propertyNames"),
        ({"allOf": [{"properties": {"a": True}}], "unevaluatedProperties": False}, "schema.unevaluatedProperties"),
        (
            {"propertyNames": {"const": "a"}, "patternProperties": {"b": True}, "minProperties": 1},
            "schema.propertyNames",
        ),
        ({"$dynamicRef": "#a"}, "schema.$dynamicRef"),
        ({"properties": {"a": {"items": {"uniqueItems": True}}}}, "schema.properties.a.items.uniqueItems"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"uniqueItems": True}}}, "schema.$defs.a.uniqueItems"),
    ],
)
def test_what_is_not_enforced_is_listed_or_refused_under_strict(schema: Any, path: str) -> None:
    assert _prepare(schema).ignored == [path]
    with pytest.raises(UnsupportedParameter) as caught:
        _prepare(schema, is_strict=True)
    assert caught.value.param == path
    assert path in str(caught.value)


def test_what_is_listed_no_longer_restricts(accepts: Accepts) -> None:
    assert accepts({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, [1, 1], is_strict=False)
    assert accepts({"oneOf": [{"pattern": "a"}, {"pattern": "b"}]}, "ab", is_strict=False)
    assert not accepts({"oneOf": [{"type": "string", "pattern": "a"}, {"pattern": "b"}]}, "c", is_strict=False)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "uniqueItems": True, "contains": {}},
        {"type": "array", "uniqueItems": False},
        {"type": "array", "uniqueItems": True, "maxItems": 1},
        {"type": "array", "minContains": 0, "contains": {"type": "null"}},
        {"type": "object", "unevaluatedProperties": True},
    ],
)
def test_keyword_that_restricts_nothing_is_taken(schema: Any) -> None:
    assert _prepare(schema, is_strict=True).ignored == []


# --- What is refused


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        (3, "schema"),
        ({"type": "strng"}, "schema.type"),
        ({"type": []}, "schema.type"),
        ({"enum": []}, "schema.enum"),
        ({"properties": []}, "schema.properties"),
        ({"properties": {"a": 1}}, "schema.properties.a"),
        ({"required": "a"}, "schema.required"),
        ({"minLength": -1}, "schema.minLength"),
        ({"maxItems": 1.5}, "schema.maxItems"),
        ({"minimum": "1"}, "schema.minimum"),
        ({"multipleOf": 0}, "schema.multipleOf"),
        ({"pattern": 5}, "schema.pattern"),
        ({"pattern": "(("}, "schema.pattern"),
        ({"items": {"pattern": "["}}, "schema.items.pattern"),
        ({"pattern": "a{3,2}"}, "schema.pattern"),
        ({"pattern": "a\\"}, "schema.pattern"),
        ({"pattern": r"[^\s\S]"}, "schema.pattern"),
        ({"patternProperties": {"(": True}}, "schema.patternProperties.("),
        ({"propertyNames": {"pattern": "("}}, "schema.propertyNames.pattern"),
        ({"anyOf": []}, "schema.anyOf"),
        ({"anyOf": [{"type": "null"}, "x"]}, "schema.anyOf[1]"),
        ({"$ref": 1}, "schema.$ref"),
        ({"$ref": "#/$defs/a"}, "schema.$ref"),
        ({"$ref": "#a"}, "schema.$ref"),
        ({"$ref": "https://example.com/schema.json"}, "schema.$ref"),
        ({"properties": {"a": {"$ref": "other.json#/a"}}}, "schema.properties.a.$ref"),
        ({"patternProperties": {"^(?!x)": True}}, "schema.patternProperties.^(?!x)"),
    ],
)
def test_invalid_schema_is_refused_with_its_path(schema: Any, path: str) -> None:
    error = _refusal(schema)

    assert error.param == path
    assert path in str(error)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}}},
        {"anyOf": [{"type": "string"}, {"$ref": "#"}]},
        {"not": {"$ref": "#"}},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
        {"type": "object", "required": ["a"], "additionalProperties": False},
        {"allOf": [{"type": "string"}, {"type": "null"}]},
    ],
)
def test_schema_without_a_finite_instance_is_refused(schema: Any) -> None:
    assert _refusal(schema).param == "schema"


def test_recursive_schema_with_an_end_is_taken(accepts: Accepts) -> None:
    schema = {
        "type": "object",
        "properties": {"value": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "required": ["value", "next"],
    }

    assert accepts(schema, {"value": 1, "next": {"value": 2, "next": None}})
    assert not accepts(schema, {"value": 1, "next": {"value": 2}})


def test_branch_without_an_end_is_left_out(accepts: Accepts) -> None:
    endless = {"type": "object", "properties": {"a": {"$ref": "#/$defs/endless"}}, "required": ["a"]}
    schema = {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/endless"}], "$defs": {"endless": endless}}

    assert accepts(schema, "x")
    assert not accepts(schema, {})


@pytest.mark.parametrize("depth", [65, 500, 10_000, 100_000])
def test_deep_nesting_is_refused_at_once(depth: int) -> None:
    schema: Any = {}
    for _ in range(depth):
        schema = {"not": schema}
    error = _refusal(schema)

    assert "64" in str(error)
    while schema:  # Python itself would free it recursively
        schema = schema["not"]


def test_deepest_schema_that_is_allowed_compiles(accepts: Accepts) -> None:
    schema: Any = {"type": "null"}
    for _ in range(31):
        schema = {"type": "object", "properties": {"a": schema}}

    assert accepts(schema, {"a": {"a": {}}})


def test_long_chain_of_references_is_no_recursion_error() -> None:
    defs: dict[str, Any] = {f"d{i}": {"properties": {"a": {"$ref": f"#/$defs/d{i + 1}"}}} for i in range(2_000)}
    defs["d2000"] = {"type": "null"}

    assert _prepare({"$ref": "#/$defs/d0", "$defs": defs}).ignored == []
    assert _prepare({"not": {"$ref": "#/$defs/d0"}, "$defs": defs}).ignored == ["schema.not"]


def test_schema_of_a_mebibyte_is_the_largest() -> None:
    large = {"enum": ["x" * 1000 + str(index) for index in range(1_000)]}

    assert _prepare(large).schema["enum"] == large["enum"]  # type: ignore[index]
    assert "1,048,576" in str(_refusal({"enum": ["x" * (1 << 20)]}))


def test_schema_that_would_explode_is_refused() -> None:
    schema: Any = {"type": "object", "required": ["z"]}
    for level in range(10):
        branches = [{"required": [f"{level}{i}"]} for i in range(5)]
        schema = {"oneOf": [{"properties": {"p": schema}, "required": ["p"]}, *branches]}
    assert "simplify it" in str(_refusal(schema))


# --- References and older drafts


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/a~1b~0c%25", "$defs": {"a/b~c%": {"type": "integer"}}},
        {"$ref": "#/properties/a", "properties": {"a": {"type": "integer"}}},
        {"$ref": "#/definitions/a/anyOf/1", "definitions": {"a": {"anyOf": [False, {"type": "integer"}]}}},
        {"$ref": "#here", "$defs": {"a": {"$anchor": "here", "type": "integer"}}},
        {"$id": "https://x.org/s", "$ref": "https://x.org/s#/$defs/a", "$defs": {"a": {"type": "integer"}}},
    ],
)
def test_local_references_are_followed(accepts: Accepts, schema: Any) -> None:
    assert accepts(schema, 12)
    assert not accepts(schema, "x")


def test_limits_of_draft_4_are_read(accepts: Accepts) -> None:
    schema = {"type": "integer", "minimum": 1, "exclusiveMinimum": True, "maximum": 3, "exclusiveMaximum": False}

    assert [value for value in range(5) if accepts(schema, value)] == [2, 3]


def test_items_of_older_drafts_are_read(accepts: Accepts) -> None:
    schema = {"type": "array", "items": [{"type": "string"}, {"type": "null"}], "additionalItems": False}

    assert accepts(schema, ["a", None])
    assert not accepts(schema, ["a", 1])
    assert not accepts(schema, ["a", None, 1])


def test_schema_text_carries_no_options_of_the_client() -> None:
    prepared = _prepare({"type": "object", "x-guidance": {"lenient": True, "whitespace_flexible": True}})

    assert "lenient" not in json.dumps(prepared.schema)
