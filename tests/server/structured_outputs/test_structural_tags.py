"""Structural tags: both forms, and what is wrong with them."""

import json
from typing import Any

import pytest

from engine.errors import InvalidRequest
from server.structured_outputs.grammar import GrammarBuilder
from server.structured_outputs.request import constraint_of
from tests.server.structured_outputs.conftest import SPECIAL_IDS, Matches

pytestmark = pytest.mark.fast

_CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
_WEATHER = {
    "type": "tag",
    "begin": "<f=weather>",
    "content": {"type": "json_schema", "json_schema": _CITY},
    "end": "</f>",
}
_NUMBER = {"type": "tag", "begin": "<f=number>", "content": {"type": "regex", "pattern": "[0-9]+"}, "end": "</f>"}
_NOTE = {"type": "tag", "begin": "<note>", "content": {"type": "any_text"}, "end": ["</note>", "</tool>"]}
_TRIGGERED = {"type": "triggered_tags", "triggers": ["<f=", "<note>"], "tags": [_WEATHER, _NUMBER, _NOTE]}
_A = {"type": "const_string", "value": "A"}
_B = {"type": "const_string", "value": "B"}
_ANY = {"type": "any_text"}
_LEGACY = {
    "type": "structural_tag",
    "structures": [
        {"begin": "<f=weather>", "schema": _CITY, "end": "</f>"},
        {"begin": "<f=number>", "schema": {"type": "integer"}, "end": "</f>"},
    ],
    "triggers": ["<f="],
}


def _grammar(tag: Any) -> str:
    constraint = constraint_of({"response_format": tag})
    assert constraint is not None
    builder = GrammarBuilder(SPECIAL_IDS)
    return builder.build(constraint.expression(builder))


def _tree(node: Any) -> dict[str, Any]:
    return {"type": "structural_tag", "format": node}


@pytest.mark.parametrize(
    ("text", "does_match"),
    [
        ("no tag", True),
        ("", True),
        ('It is <f=weather>{"city":"Rome"}</f>, or <f=number>3</f>.', True),
        ("It is <f=weather>{}</f>", False),
        ("It is <f=other>3</f>", False),
        ("It is <f=number>3", False),
    ],
)
def test_older_form_matches(matches: Matches, text: str, does_match: bool) -> None:
    assert matches(_grammar(_LEGACY), text) is does_match


@pytest.mark.parametrize(
    ("node", "texts", "others"),
    [
        (_A, ["A"], ["", "B"]),
        (_ANY, ["", "any\ntext"], ["<tool>"]),
        ({"type": "json_schema", "json_schema": _CITY}, ['{"city":"x"}'], ["{}"]),
        ({"type": "regex", "pattern": "a+"}, ["aa"], ["b"]),
        ({"type": "grammar", "grammar": 'root ::= "a" | "b"'}, ["b"], ["c"]),
        ({"type": "sequence", "elements": [_A, _B]}, ["AB"], ["A"]),
        ({"type": "sequence", "elements": [_ANY, _B, _A]}, ["BA", "xxBA"], ["xBB"]),
        ({"type": "sequence", "elements": [_ANY, _NUMBER, _ANY]}, ["x<f=number>1</f>y"], ["x<f=number>y"]),
        ({"type": "or", "elements": [_A, _B]}, ["A", "B"], ["AB"]),
        ({"type": "optional", "content": _A}, ["", "A"], ["AA"]),
        ({"type": "star", "content": _A}, ["", "AA"], ["B"]),
        ({"type": "plus", "content": _A}, ["A", "AA"], [""]),
        (_WEATHER, ['<f=weather>{"city":"x"}</f>'], ["<f=weather>x</f>"]),
        (_NOTE, ["<note>x</note>", "<note>y</tool>"], ["<note>x"]),
        (_TRIGGERED, ["", "a <f=number>1</f> <note>n</note> b"], ["<f=x", "<f=number>n</f>"]),
        ({**_TRIGGERED, "at_least_one": True}, ["a<f=number>1</f>b"], ["a"]),
        ({**_TRIGGERED, "stop_after_first": True}, ["a", "a<f=number>1</f>"], ["a<f=number>1</f>b"]),
        (
            {"type": "tags_with_separator", "tags": [_NUMBER, _NOTE], "separator": ","},
            ["", "<f=number>1</f>", "<f=number>1</f>,<note></note>"],
            ["<f=number>1</f>,", "<f=number>1</f><f=number>1</f>"],
        ),
        (
            {
                "type": "tags_with_separator",
                "tags": [_NUMBER],
                "separator": ",",
                "at_least_one": True,
                "stop_after_first": True,
            },
            ["<f=number>1</f>"],
            ["", "<f=number>1</f>,<f=number>1</f>"],
        ),
    ],
)
def test_each_format_matches(matches: Matches, node: Any, texts: list[str], others: list[str]) -> None:
    grammar = _grammar(_tree(node))

    assert [text for text in texts if not matches(grammar, text)] == []
    assert [text for text in others if matches(grammar, text)] == []


@pytest.mark.parametrize("field", ["structural_tag", "structured_outputs"])
def test_tag_may_come_as_its_text(matches: Matches, field: str) -> None:
    text = json.dumps(_tree(_A))
    constraint = constraint_of({field: text if field == "structural_tag" else {"structural_tag": text}})
    assert constraint is not None
    builder = GrammarBuilder(SPECIAL_IDS)

    assert matches(builder.build(constraint.expression(builder)), "A")


def test_what_a_schema_in_it_does_not_enforce_is_listed() -> None:
    tag = _tree({"type": "json_schema", "json_schema": {"type": "string", "format": "x"}})
    constraint = constraint_of({"response_format": tag})

    assert constraint is not None
    assert constraint.ignored == ["response_format.format.json_schema.format"]


@pytest.mark.parametrize(
    ("tag", "param"),
    [
        ({"type": "structural_tag"}, "response_format"),
        (_tree([]), "response_format.format"),
        (_tree({}), "response_format.format.type"),
        (_tree({"type": "token"}), "response_format.format.type"),
        (_tree({"type": "const_string"}), "response_format.format.value"),
        (_tree({"type": "const_string", "value": 1}), "response_format.format.value"),
        (_tree({"type": "any_text", "max_tokens": 3}), "response_format.format.max_tokens"),
        (_tree({"type": "json_schema"}), "response_format.format.json_schema"),
        (_tree({"type": "json_schema", "json_schema": {}, "style": "qwen_xml"}), "response_format.format.style"),
        (_tree({"type": "sequence", "elements": []}), "response_format.format.elements"),
        (_tree({"type": "sequence", "elements": [1]}), "response_format.format.elements[0]"),
        (
            _tree({"type": "sequence", "elements": [_ANY, {"type": "regex", "pattern": "a"}]}),
            "response_format.format.elements[0]",
        ),
        (
            _tree({"type": "or", "elements": [{"type": "regex", "pattern": "(?=a)"}]}),
            "response_format.format.elements[0].pattern",
        ),
        (_tree({**_WEATHER, "end": None}), "response_format.format.end"),
        (_tree({**_TRIGGERED, "triggers": ["<note>"]}), "response_format.format.tags[0].begin"),
        (_tree({**_TRIGGERED, "triggers": ["<f=", "<note>", "<x>"]}), "response_format.format.triggers"),
        (_tree({**_TRIGGERED, "triggers": [""]}), "response_format.format.triggers[0]"),
        ({**_LEGACY, "structures": [1]}, "response_format.structures[0]"),
        ({**_LEGACY, "structures": []}, "response_format.structures"),
        ({**_LEGACY, "triggers": None}, "response_format.triggers"),
    ],
)
def test_what_is_wrong_is_named(tag: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        constraint_of({"response_format": tag})

    assert caught.value.param == param
