"""constraint_of: the fields of a request, and what is wrong with them."""

import json
from typing import Any

import pytest

from engine.errors import InvalidRequest, UnsupportedParameter
from server.structured_outputs.expressions import MAX_CHOICES, MAX_TEXT
from server.structured_outputs.grammar import GrammarBuilder
from server.structured_outputs.languages.ebnf import MAX_RULES
from server.structured_outputs.request import CONSTRAINT_FIELDS, Constraint, constraint_of
from tests.server.structured_outputs.conftest import SPECIAL_IDS, Matches

pytestmark = pytest.mark.fast

_SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
_EBNF = 'root ::= "a" | digits # or digits\n   | "z"\ndigits ::= [0-9]+ "\\u00e9"\n'
_LARK = 'start: "a" | DIGITS\nDIGITS: /[0-9]+/ "é"'


def _asked(fields: dict[str, Any]) -> Constraint:
    constraint = constraint_of(fields)
    assert constraint is not None
    return constraint


def _grammar(constraint: Constraint) -> str:
    builder = GrammarBuilder(SPECIAL_IDS)
    return builder.build(constraint.expression(builder))


def _structured(**fields: Any) -> dict[str, Any]:
    return {"structured_outputs": fields}


def _format(schema: Any, **fields: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **fields}}}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"response_format": None, "guided_json": None},
        {"response_format": {"type": "text"}},
        _structured(),
        _structured(json_object=False),
    ],
)
def test_nothing_is_asked(fields: dict[str, Any]) -> None:
    assert constraint_of(fields) is None


def test_fields_of_a_body_that_are_not_ours_are_left_alone() -> None:
    assert constraint_of({"temperature": "hot", "response_format": {"type": "text"}}) is None
    assert "temperature" not in CONSTRAINT_FIELDS


@pytest.mark.parametrize(
    ("fields", "param", "text", "other"),
    [
        ({"response_format": {"type": "json_object"}}, "response_format", '{"a":[]}', "[]"),
        (_format(_SCHEMA), "response_format.json_schema.schema", '{"a":1}', "{}"),
        (_structured(json=_SCHEMA), "structured_outputs.json", '{"a":1}', "{}"),
        (_structured(json='{"type":"integer"}'), "structured_outputs.json", "1", "{}"),
        (_structured(json_object=True), "structured_outputs.json_object", "{}", "1"),
        (_structured(regex="[a-c]+/"), "structured_outputs.regex", "abc/", "abc"),
        (_structured(choice=["yes", "no"]), "structured_outputs.choice", "no", "maybe"),
        (_structured(grammar=_EBNF), "structured_outputs.grammar", "12é", "12"),
        (_structured(grammar=_EBNF), "structured_outputs.grammar", "z", "b"),
        (_structured(grammar=_LARK), "structured_outputs.grammar", "12é", "12"),
        ({"guided_json": _SCHEMA}, "guided_json", '{"a":1}', "{}"),
        ({"guided_regex": "^a$"}, "guided_regex", "a", "aa"),
        ({"guided_choice": ["a", "a", "b"]}, "guided_choice", "b", "ab"),
        ({"guided_grammar": _LARK}, "guided_grammar", "a", "z"),
        ({"regex": "a|b"}, "regex", "b", "c"),
        ({"ebnf": _EBNF}, "ebnf", "a", "b"),
        ({"json_schema": '{"const":1}'}, "json_schema", "1", "2"),
    ],
)
def test_each_field_constrains_the_answer(
    matches: Matches, fields: dict[str, Any], param: str, text: str, other: str
) -> None:
    constraint = _asked(fields)

    assert constraint.param == param
    assert constraint.ignored == []
    assert matches(_grammar(constraint), text)
    assert not matches(_grammar(constraint), other)


def test_choice_with_a_special_token_is_that_token(matches: Matches) -> None:
    assert matches(_grammar(_asked(_structured(choice=["<tool>"]))), "<tool>")


@pytest.mark.parametrize(
    ("fields", "text", "other"),
    [
        (_structured(json={}, disable_any_whitespace=False), '{"a": 1}', '{"a":' + " " * 40 + "1}"),
        (_structured(json={}, disable_any_whitespace=True), '{"a":1}', '{"a": 1}'),
        (_structured(json={}, whitespace_pattern=r"[\n ]?"), '{"a": 1}', '{"a":  1}'),
        (_structured(json={}, whitespace_pattern=r"\s{1,2}"), '{"a":  1}', '{"a":\u00a01}'),
        ({"guided_json": {}, "guided_whitespace_pattern": " "}, '{"a": 1}', '{"a":\n1}'),
        ({"response_format": {"type": "json_object"}, **_structured(whitespace_pattern=" ")}, '{"a": 1}', "{ \n}"),
    ],
)
def test_whitespace_is_what_was_asked_for(matches: Matches, fields: dict[str, Any], text: str, other: str) -> None:
    grammar = _grammar(_asked(fields))

    assert matches(grammar, text)
    assert not matches(grammar, other)


def test_what_is_not_enforced_is_listed() -> None:
    fields = _format({"type": "string", "format": "e-mail"}, strict=True, extra=1)
    fields["response_format"]["more"] = 2
    fields["structured_outputs"] = {"backend": "x"}

    assert sorted(_asked(fields).ignored) == [
        "response_format.json_schema.extra",
        "response_format.json_schema.schema.format",
        "response_format.more",
        "structured_outputs.backend",
    ]


def test_whitespace_without_json_is_listed() -> None:
    assert _asked(_structured(regex="a", whitespace_pattern=" ")).ignored == ["structured_outputs.whitespace_pattern"]


def test_strict_decides_about_keywords_that_are_not_enforced() -> None:
    schema = {"type": "array", "uniqueItems": True}

    assert _asked(_format(schema)).ignored == ["response_format.json_schema.schema.uniqueItems"]
    with pytest.raises(UnsupportedParameter) as caught:
        constraint_of(_format(schema, strict=True))
    assert caught.value.param == "response_format.json_schema.schema.uniqueItems"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.schema"),
        (_format({}, strict="yes"), "response_format.json_schema.strict"),
        (_format({"type": "x"}), "response_format.json_schema.schema.type"),
        (_structured(regex=1), "structured_outputs.regex"),
        (_structured(regex=""), "structured_outputs.regex"),
        (_structured(regex="(?!a)"), "structured_outputs.regex"),
        (_structured(regex=r"(a)\1"), "structured_outputs.regex"),
        (_structured(regex="a{1000000}"), "structured_outputs.regex"),
        (_structured(regex="a\\"), "structured_outputs.regex"),
        (_structured(regex="["), "structured_outputs.regex"),
        ({"guided_regex": "(("}, "guided_regex"),
        (_structured(jsn={}), "structured_outputs.jsn"),
        (_structured(json=None, backend="x"), "structured_outputs.backend"),
        ({"response_format": {"type": "text", "schema": {}}}, "response_format.schema"),
        (_structured(regex="a" * (MAX_TEXT + 1)), "structured_outputs.regex"),
        (_structured(choice=[]), "structured_outputs.choice"),
        (_structured(choice=["a", ""]), "structured_outputs.choice[1]"),
        (_structured(choice=["a", 1]), "structured_outputs.choice[1]"),
        (_structured(choice=["a"] * (MAX_CHOICES + 1)), "structured_outputs.choice"),
        (_structured(grammar=""), "structured_outputs.grammar"),
        (_structured(grammar="root ::= x"), "structured_outputs.grammar"),
        (_structured(grammar='item ::= "x"'), "structured_outputs.grammar"),
        (_structured(grammar="root ::= " + "(" * 5_000), "structured_outputs.grammar"),
        (_structured(grammar='root ::= "a"\n' + 'x ::= "a"\n' * MAX_RULES), "structured_outputs.grammar"),
        (_structured(json="{"), "structured_outputs.json"),
        (_structured(json="[" * 100_000), "structured_outputs.json"),
        (_structured(json=3), "structured_outputs.json"),
        (_structured(json={}, whitespace_pattern="x"), "structured_outputs.whitespace_pattern"),
        (_structured(json={}, disable_additional_properties=True), "structured_outputs.disable_additional_properties"),
        ({"guided_choice": "yes"}, "guided_choice"),
    ],
)
def test_what_cannot_be_followed_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        constraint_of(fields)

    assert caught.value.param == param
    assert param in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, ("response_format", "guided_regex")),
        (_structured(regex="a", choice=["b"]), ("structured_outputs.regex", "structured_outputs.choice")),
        ({"regex": "a", "ebnf": "b"}, ("regex", "ebnf")),
        (
            {"guided_whitespace_pattern": " ", **_structured(json={}, whitespace_pattern=" ")},
            ("guided_whitespace_pattern", "structured_outputs.whitespace_pattern"),
        ),
    ],
)
def test_two_that_differ_are_refused_by_name(fields: dict[str, Any], names: tuple[str, str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        constraint_of(fields)

    assert all(name in str(caught.value) for name in names)


_SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"guided_grammar": "start: /a/", **_structured(grammar="start: /a/")}, "structured_outputs.grammar"),
        ({"ebnf": "start: /a/", "guided_grammar": "start: /a/"}, "guided_grammar"),
        ({"guided_regex": "a+", "regex": "a+"}, "guided_regex"),
        ({"guided_choice": ["a", "b"], **_structured(choice=["a", "b"])}, "structured_outputs.choice"),
        ({"guided_json": json.dumps(_SCHEMA), **_structured(json=_SCHEMA)}, "structured_outputs.json"),
        (
            {
                "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": _SCHEMA}},
                "guided_json": _SCHEMA,
            },
            "response_format.json_schema.schema",
        ),
        ({"response_format": {"type": "json_object"}, **_structured(json_object=True)}, "response_format"),
    ],
)
def test_two_that_say_the_same_are_one(fields: dict[str, Any], path: str) -> None:
    constraint = constraint_of(fields)
    assert constraint is not None
    assert (constraint.param, constraint.ignored) == (path, [])
