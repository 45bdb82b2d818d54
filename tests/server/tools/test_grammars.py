"""The grammars of all formats: what the format writes is allowed, and what is allowed is read."""

import functools
import json
import random
from typing import Any

import pytest

from server.structured_outputs.json_schema.preparation import prepare_schema
from server.tools.format import Tool, WrittenCall
from server.tools.registry import FORMATS, named_format
from tests.server.tools.matching import ALPHABET, Matching
from tests.server.tools.parsing import calls_of, parse, text_of

pytestmark = pytest.mark.fast

_WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "unit": {"type": "string", "enum": ["C", "F"]},
        "is_hourly": {"type": "boolean"},
        "near": {"type": "array", "items": {"$ref": "#/$defs/place"}, "maxItems": 2},
    },
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"place": {"type": "object", "properties": {"x": {"type": "number"}}, "additionalProperties": False}},
}
_TOOLS = [
    Tool("get_weather", _WEATHER, {}),
    Tool("now", {"type": "object", "properties": {}, "additionalProperties": False}, {}),
]
_ONE = [WrittenCall("get_weather", '{"city": "Par\\"is", "days": 5, "near": [{"x": 1}]}', "callcall1")]
_TWO = [*_ONE, WrittenCall("now", "{}", "callcall2")]
_ONE_CALL = {"gigachat3", "llama3_json", "openai"}
_MARKLESS = {"functionary_v32", "muse_glimmer", "openai", "llama3_json", "pythonic"}
# What begins an answer without calls.
_HEADERS = {
    "functionary_v32": "all\n",
    "muse_glimmer": " to=user<|message|>",
    "openai": "<|channel|>final<|message|>",
}

_formats = pytest.mark.parametrize("name", list(FORMATS))
_with_specials = pytest.mark.parametrize("has_specials", [False, True], ids=["text", "special tokens"])


@functools.cache
def _matching(name: str, has_specials: bool) -> Matching:
    return Matching(named_format(name).marks if has_specials else ())


@_formats
@_with_specials
@pytest.mark.parametrize("min_calls", [0, 1])
@pytest.mark.parametrize("is_parallel", [False, True])
def test_one_call_is_allowed(name: str, has_specials: bool, min_calls: int, is_parallel: bool) -> None:
    found = named_format(name)
    matching = _matching(name, has_specials)

    assert matching.accepts(found, _TOOLS, found.write(_ONE), min_calls=min_calls, is_parallel=is_parallel)


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in _ONE_CALL])
@_with_specials
@pytest.mark.parametrize("min_calls", [0, 1])
def test_two_calls_are_allowed_in_parallel_alone(name: str, has_specials: bool, min_calls: int) -> None:
    found = named_format(name)
    matching = _matching(name, has_specials)
    text = found.write(_TWO)

    assert matching.accepts(found, _TOOLS, text, min_calls=min_calls, is_parallel=True)
    assert not matching.accepts(found, _TOOLS, text, min_calls=min_calls, is_parallel=False)


@_formats
@_with_specials
@pytest.mark.parametrize("is_parallel", [False, True])
def test_text_alone_is_allowed_unless_a_call_is_required(name: str, has_specials: bool, is_parallel: bool) -> None:
    found = named_format(name)
    matching = _matching(name, has_specials)
    text = _HEADERS.get(name, "") + "Hello, [world] <b>"

    assert matching.accepts(found, _TOOLS, text, min_calls=0, is_parallel=is_parallel)
    assert not matching.accepts(found, _TOOLS, text, min_calls=1, is_parallel=is_parallel)


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in _MARKLESS])
@_with_specials
def test_text_may_precede_a_call_unless_one_is_required(name: str, has_specials: bool) -> None:
    found = named_format(name)
    matching = _matching(name, has_specials)
    text = "I will look.\n" + found.write(_ONE)

    assert matching.accepts(found, _TOOLS, text, min_calls=0)
    assert matching.accepts(found, _TOOLS, text, min_calls=0, is_parallel=False)
    assert not matching.accepts(found, _TOOLS, text, min_calls=1)


@_formats
@_with_specials
@pytest.mark.parametrize("min_calls", [0, 1])
def test_a_call_is_constrained_once_it_begins(name: str, has_specials: bool, min_calls: int) -> None:
    found = named_format(name)
    matching = _matching(name, has_specials)

    for given, wrong in (("get_weather", "get_weathes"), ("days", "dayz"), ("5", "x"), ("city", "cites")):
        text = found.write(_ONE).replace(given, wrong)
        assert not matching.accepts(found, _TOOLS, text, min_calls=min_calls), text


def _choose_shortly(seed: int) -> Any:
    """Chooses at random, and often what ends strings, values and calls."""
    chance = random.Random(seed)
    ends = [index for index, char in enumerate(ALPHABET) if char in '"}])<>,\\']

    def choose(allowed: list[int]) -> int:
        likely = [token_id for token_id in allowed if token_id in ends or token_id >= 256]
        return chance.choice(likely if likely and chance.random() < 0.6 else allowed)

    return choose


@_formats
@pytest.mark.parametrize("seed", range(3))
def test_what_the_grammar_forces_is_read_as_calls(name: str, seed: int) -> None:
    found = named_format(name)
    text = _matching(name, True).sample(found, _TOOLS, _choose_shortly(seed), min_calls=1)

    events = parse(found, text, {tool.name: tool.parameters for tool in _TOOLS})

    calls = calls_of(events)
    assert calls, text
    assert text_of(events) == "", text
    for called, arguments in calls:
        assert called in ("get_weather", "now")
        assert arguments.keys() <= _WEATHER["properties"].keys(), json.dumps(arguments)
        assert called == "now" or isinstance(arguments["city"], str)


@_formats
@pytest.mark.parametrize("tool", ["a.b", "a-b", "-", "1.", "_" * 128])
def test_a_tool_of_any_name_is_called(name: str, tool: str) -> None:
    found = named_format(name)
    tools = [Tool(each, _WEATHER, {}) for each in (tool, "a", "-.")]
    text = found.write([WrittenCall(tool, '{"city": "Paris"}', "callcall1")])

    for min_calls in (0, 1):
        assert _matching(name, True).accepts(found, tools, text, min_calls=min_calls)
    assert calls_of(parse(found, text, {each.name: each.parameters for each in tools})) == [(tool, {"city": "Paris"})]


def test_the_number_of_a_call_has_three_digits_at_most() -> None:
    found = named_format("kimi_k2")
    text = found.write(_ONE)

    assert _matching("kimi_k2", True).accepts(found, _TOOLS, text.replace(":0<", ":127<"), min_calls=1)
    assert not _matching("kimi_k2", True).accepts(found, _TOOLS, text.replace(":0<", ":1000<"), min_calls=1)


@_formats
def test_a_prepared_schema_is_spelled_as_templates_spell_it(name: str) -> None:
    """The schemas of requests ask for JSON without spaces."""
    found = named_format(name)
    prepared = prepare_schema(_WEATHER, param="tools[0].function.parameters", is_strict=True).schema
    text = found.write(_ONE)

    assert _matching(name, True).accepts(found, [Tool("get_weather", prepared, {})], text, min_calls=1)
    assert not _matching(name, True).accepts(
        found, [Tool("get_weather", prepared, {})], text.replace("5", "x"), min_calls=1
    )


def test_a_message_to_the_user_may_precede_messages_to_tools() -> None:
    found = named_format("muse_glimmer")
    text = f" to=user<|message|>I look.<|eom|><|start|>assistant{found.write(_ONE)}"

    for is_parallel in (False, True):
        accepts = functools.partial(_matching("muse_glimmer", True).accepts, found, _TOOLS, is_parallel=is_parallel)
        assert accepts(text, min_calls=0)
        assert not accepts(text, min_calls=1)
        assert accepts(f"{text}<|eom|><|start|>assistant{found.write(_TWO[1:])}", min_calls=0) is is_parallel
        assert not accepts(text.replace('name="get_weather"', 'name="now"'), min_calls=0)


def test_an_answer_may_end_as_kimi_k3_ends_its_messages() -> None:
    found = named_format("kimi_k3")
    matching = _matching("kimi_k3", True)
    end = "<|close|>message<|sep|>"

    for is_parallel in (False, True):
        for text in ("Four.", f"Four.<|close|>response<|sep|>{end}"):
            assert matching.accepts(found, _TOOLS, text, min_calls=0, is_parallel=is_parallel)
    assert matching.accepts(found, _TOOLS, f"Let me see.{found.write(_TWO)}{end}", min_calls=0, is_parallel=True)
