"""Formats without JSON: what their grammars allow fits the schema, except where they say that they do not follow it."""

import json
import random
from typing import Any

import pytest

from engine.errors import InvalidRequest, UnsupportedParameter
from server.chat.tools import ChatTools, OfferedTool, ToolOffer, chat_tools, tools_in_format
from server.tools.format import Tool, ToolFormat, WrittenCall
from server.tools.layout import CallField, CallLayout
from server.tools.registry import FORMATS, named_format
from server.tools.styles.tagged_format import TaggedFormat
from server.tools.styles.tagged_layout import TaggedLayout
from tests.server.tools.matching import ALPHABET, Matching
from tests.server.tools.parsing import calls_of, parse

pytestmark = pytest.mark.fast

_PATH = "tools[0].function.parameters"
_BARE_KEYS = ["functiongemma", "gemma4"]
_PYTHONIC = ["lfm2", "olmo3", "pythonic"]
_TAGGED = [
    *("glm45", "glm47", "hy_v3", "ling3", "minicpm5", "minimax_m2", "muse_glimmer", "poolside_v1", "qwen3_coder"),
    *("seed_oss", "step3p5"),
]
_ARG_VALUES = ["glm45", "glm47", "ling3", "poolside_v1"]
_TYPED_TAGS = ["deepseek_v32", "deepseek_v4", "kimi_k3"]  # which tell strings from other values
_ELEMENTS = ["minimax_m3"]
_WITHOUT_JSON = [*_BARE_KEYS, *_PYTHONIC, *_TAGGED, *_TYPED_TAGS, *_ELEMENTS]
# As in DeepSeek V3.2's template
_STRINGS_MARKED = TaggedFormat(
    "template",
    TaggedLayout(
        CallLayout(
            begin="",
            open='<invoke name="',
            body=(CallField.NAME, '">\n', CallField.ARGUMENTS, "</invoke>"),
            separator="\n",
        ),
        open_key='<parameter name="',
        open_value='" string="false">',
        close_value="</parameter>\n",
        open_string='" string="true">',
    ),
)
_TEXT = {"type": "string"}
_FOLLOWED: dict[str, dict[str, Any]] = {
    "nothing": {"additionalProperties": False},
    "reference": {"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"n": {"type": "integer"}}, "required": ["n"]}}},
    "reference in allOf": {
        "properties": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}},
        "required": ["a"],
        "$defs": {"a": {"enum": ["u", "v"]}},
    },
    "required alone": {"properties": {}, "required": ["n"], "additionalProperties": {"type": "integer"}},
    "map": {"additionalProperties": {"type": "integer"}},
    "mixed enum": {"properties": {"a": {"enum": [1, 2.5, True, None, "x"]}}, "required": ["a"]},
    "enum or null": {"properties": {"a": {"anyOf": [{"enum": ["x", "y"]}, {"type": "null"}]}}, "required": ["a"]},
    "typed enum": {"properties": {"a": {"type": ["string", "null"], "enum": ["x", None]}}, "required": ["a"]},
    "true": {"properties": {"a": {"const": True}}, "required": ["a"]},
    "integer or string": {"properties": {"a": {"anyOf": [{"type": "integer"}, _TEXT]}}, "required": ["a"]},
    "items": {
        "properties": {"a": {"type": "array", "items": {"enum": ["x"]}, "minItems": 1, "maxItems": 3}},
        "required": ["a"],
    },
}


def _format(name: str) -> ToolFormat:
    return _STRINGS_MARKED if name == "strings marked" else named_format(name)


def _tools(name: str, parameters: dict[str, Any], *, is_strict: bool = False) -> ChatTools:
    found = chat_tools(ToolOffer([OfferedTool("f", None, parameters, is_strict)]))
    assert found is not None
    return tools_in_format(found, _format(name))


def _fits(arguments: Any, schema: dict[str, Any]) -> bool:
    """Whether a format with JSON, which enforces all of the schema, allows the arguments."""
    hermes = named_format("hermes")
    text = hermes.write([WrittenCall("f", json.dumps(arguments, ensure_ascii=False))])
    return Matching().accepts(hermes, _tools("hermes", schema).callable, text, min_calls=1)


def _sample(name: str, tools: list[Tool], seed: int) -> Any:
    """Arguments of a call that is made at random, of letters, digits and what ends strings for the most part."""
    chance = random.Random(seed)
    likely = {index for index, char in enumerate(ALPHABET) if char in 'xu1"}])<>,'}

    def choose(allowed: list[int]) -> int:
        some = [token_id for token_id in allowed if token_id in likely or token_id >= 256]
        return chance.choice(some if some and chance.random() < 0.6 else allowed)

    found = _format(name)
    text = Matching(found.marks).sample(found, tools, choose, min_calls=1)
    (_, arguments), *_ = calls_of(parse(found, text, {tool.name: tool.parameters for tool in tools}))
    return arguments


@pytest.mark.parametrize("name", [*_WITHOUT_JSON, "strings marked"])
@pytest.mark.parametrize("case", list(_FOLLOWED))
def test_arguments_fit_what_is_said_to_be_followed(name: str, case: str) -> None:
    schema = _FOLLOWED[case]
    tools = _tools(name, schema, is_strict=True)

    assert tools.ignored == []
    for seed in range(3):
        arguments = _sample(name, tools.callable, seed)
        assert _fits(arguments, schema), arguments


@pytest.mark.parametrize(
    ("schema", "names", "ignored"),
    [
        (
            {"properties": {"a": {**_TEXT, "pattern": "^x"}}},
            [*_TAGGED, *_TYPED_TAGS, *_BARE_KEYS, *_ELEMENTS],
            ["properties.a.pattern"],
        ),
        (
            {"properties": {"a": {**_TEXT, "minLength": 2}}},
            [*_TAGGED, *_TYPED_TAGS, *_BARE_KEYS, *_ELEMENTS],
            ["properties.a.minLength"],
        ),
        ({"anyOf": [{"properties": {"a": _TEXT}}, {"properties": {"b": _TEXT}}]}, _WITHOUT_JSON, ["anyOf"]),
        ({"properties": {}, "minProperties": 1, "additionalProperties": True}, _WITHOUT_JSON, ["minProperties"]),
        ({"properties": {"a": {"enum": ["true", False]}}}, _TAGGED, ["properties.a.enum"]),
        (
            {"properties": {"a": {"anyOf": [{"type": "integer", "minimum": 5}, _TEXT]}}},
            [*_TAGGED, *_TYPED_TAGS, *_ELEMENTS],
            ["properties.a.anyOf"],
        ),
        (
            {"properties": {"a": {"type": "array", "uniqueItems": True, "items": {**_TEXT, "maxLength": 1}}}},
            [*_BARE_KEYS, *_ELEMENTS],
            ["properties.a.items.maxLength"],
        ),
    ],
)
@pytest.mark.parametrize("name", list(FORMATS))
def test_what_is_not_followed_is_listed_and_refused_under_strict(
    name: str, schema: dict[str, Any], names: list[str], ignored: list[str]
) -> None:
    listed = _tools(name, schema).ignored
    from_format = [path for path in listed if path in {f"{_PATH}.{place}" for place in ignored}]

    assert from_format == ([f"{_PATH}.{place}" for place in ignored] if name in names else [])
    if name in names and listed == from_format:
        with pytest.raises(UnsupportedParameter, match=f"under strict: calls in the format .*{name}"):
            _tools(name, schema, is_strict=True)


def _with_key(key: str) -> dict[str, Any]:
    return {"properties": {key: _TEXT}}


_UNWRITABLE: list[tuple[dict[str, Any], list[str], str]] = [
    (_with_key("a b"), [*_PYTHONIC, *_BARE_KEYS, *_ELEMENTS], "the property 'a b'"),
    (_with_key("a-b"), _PYTHONIC, "the property 'a-b'"),
    (_with_key(""), _WITHOUT_JSON, "the property ''"),
    (_with_key("a<b"), _WITHOUT_JSON, "the property 'a<b'"),
    (_with_key('a"b'), [*_TAGGED, *_TYPED_TAGS, *_PYTHONIC], "the property 'a\"b'"),
    (_with_key("a\nb"), _WITHOUT_JSON, r"the property 'a\nb'"),
    (_with_key(" a"), _WITHOUT_JSON, "the property ' a'"),
    (_with_key("a}"), [*_BARE_KEYS, *_PYTHONIC], "the property 'a}'"),
    (_with_key("a:b"), [*_BARE_KEYS, *_PYTHONIC], "the property 'a:b'"),
    ({"properties": {"o": {"type": "object", **_with_key("a:b")}}}, _BARE_KEYS, "the property 'a:b'"),
    (
        {"properties": {"a": {"const": "x</parameter>"}}},
        ["minimax_m2", "qwen3_coder", "seed_oss", "step3p5"],
        "the text 'x</",
    ),
    ({"properties": {"a": {"enum": ["</arg_value>", "b"]}}}, _ARG_VALUES, "the text '</arg_value>'"),
    ({"properties": {"a": {"enum": [["</arg_value>"], 1]}}}, _ARG_VALUES, "the text '</arg_value>'"),
    ({"properties": {"a": {"enum": ["]<]minimax[>["]}}}, _ELEMENTS, "the text ']<]minimax[>['"),
    ({"properties": {"a": {"enum": ['<|"|>']}}}, ["gemma4"], "the text '<|\"|>'"),
]


@pytest.mark.parametrize(("schema", "names", "part"), _UNWRITABLE)
@pytest.mark.parametrize("name", list(FORMATS))
def test_a_schema_that_a_call_cannot_hold_is_refused(
    name: str, schema: dict[str, Any], names: list[str], part: str
) -> None:
    if name not in names:
        _tools(name, schema)
        return
    with pytest.raises(InvalidRequest) as error:
        _tools(name, schema)

    assert f"{_PATH} has {part}" in str(error.value)
    assert f"the format of this model ({name}) cannot hold" in str(error.value)
    assert error.value.param == _PATH


@pytest.mark.parametrize("name", _WITHOUT_JSON)
@pytest.mark.parametrize("key", ["a", "A1_b", "größe"])
def test_other_names_of_properties_are_written_and_read(name: str, key: str) -> None:
    schema = {"properties": {key: {"type": "integer"}}, "required": [key]}

    assert _sample(name, _tools(name, schema, is_strict=True).callable, 0).keys() == {key}
