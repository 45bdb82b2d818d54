import functools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import StartupError
from server.text.chat_templates.chat_template import ChatTemplate
from server.text.chat_templates.direct_templates import DirectTemplates
from server.tools.detection.tool_format import choose_tool_format, find_tool_format, takes_system_message
from server.tools.format import Tool, ToolFormat, WrittenCall
from server.tools.history import template_chat
from tests.server.tools.detection.templates import template
from tests.server.tools.matching import Matching
from tests.server.tools.parsing import calls_of, parse, text_of

pytestmark = pytest.mark.fast


@functools.cache
def _found(name: str) -> ToolFormat | None:
    """Return the detected format; detection renders the template many times."""
    return find_tool_format(template(name))


_FOUND = {
    "tags": ("template", True),
    "tags, text": ("template", False),
    "compact": ("template", True),
    "thought": ("template", True),
    "list with ids": ("mistral", True),
    "numbered": ("template", True),
    "section": ("template", False),
    "one object": ("template", True),
    "parameters": ("template", True),
    "keys and values": ("template", True),
    "strings marked": ("template", True),
    "bare keys": ("gemma4", True),
    "elements": ("minimax_m3", True),
    "harmony": ("openai", True),
    "recipients": ("functionary_v32", False),
    "addressed": ("muse_glimmer", True),
    "ids alone": ("kimi_k2", False),
    "keys without breaks": ("template", True),
    "mark at the end": ("template", True),
    "numbered, with types": ("kimi_k3", True),
    "list in tags": ("template", True),
    "lines in tags": ("template", True),
    "name as key": ("template", True),
    "own message": ("template", True),
    "Python in marks": ("lfm2", True),
    "Python on lines": ("olmo3", True),
    "Python alone": ("pythonic", True),
    "escaped strings": ("functiongemma", True),
}
_ONE_CALL = {"one object", "harmony", "own message"}
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
    "additionalProperties": False,
}
_TOOL = Tool("get_weather", _SCHEMA, {"type": "function", "function": {"name": "get_weather", "parameters": _SCHEMA}})
_NOW = Tool("now", {"type": "object", "properties": {}, "additionalProperties": False}, {})
_USER = {"role": "user", "content": "How is the weather?"}


def _answer(name: str, calls: list[tuple[str, dict[str, Any]]], content: str = "") -> str:
    """Return the calls as the template renders them after the prompt."""
    chat_template = template(name)
    message = {
        "role": "assistant",
        "content": content,
        "tool_calls": [
            {"type": "function", "id": f"functions.{called}:{index}" if name == "ids alone" else f"callcall{index}",
             "function": {"name": called, "arguments": json.dumps(arguments, ensure_ascii=False)}}
            for index, (called, arguments) in enumerate(calls)
        ],
    }  # fmt: skip
    chat = template_chat(find_tool_format(chat_template), [_USER, message], [_TOOL.definition])
    prompt = chat_template.render(chat.messages[:1], tools=chat.tools).text
    whole = chat_template.render(chat.messages, tools=chat.tools, add_generation_prompt=False).text
    assert whole.startswith(prompt)
    answer = whole[len(prompt) :]
    for end in ("<|im_end|>\n", "</s>", "<|eom_id|>", "<|end|>", "<|call|>", "<｜x_eos:y｜>", "<|eot|>"):
        answer = answer.removesuffix(end)
    return answer.removeprefix("<think>\n\n</think>\n\n")


@pytest.mark.parametrize("name", list(_FOUND))
def test_the_format_is_found_from_the_template(name: str) -> None:
    found = _found(name)

    assert found is not None
    assert (found.name, found.takes_object_arguments) == _FOUND[name]
    assert found.renders_calls


@pytest.mark.parametrize("name", list(_FOUND))
@settings(max_examples=20, deadline=None)
@given(
    calls=st.lists(
        st.tuples(
            st.just("get_weather"),
            st.fixed_dictionaries({"city": st.text("aé😀\"'{}\\: ", max_size=8)}, optional={"days": st.integers()}),
        )
        | st.just(("now", {})),
        min_size=1,
        max_size=3,
    )
)
def test_what_the_template_renders_is_read(name: str, calls: list[Any]) -> None:
    found = _found(name)
    calls = calls[:1] if name in _ONE_CALL else calls
    assert found is not None

    events = parse(found, _answer(name, calls), {"get_weather": _SCHEMA, "now": True})

    assert calls_of(events) == calls
    assert text_of(events) == ""


@pytest.mark.parametrize("name", list(_FOUND))
@pytest.mark.parametrize("num_calls", [1, 2])
def test_what_the_template_renders_is_what_the_grammar_forces(name: str, num_calls: int) -> None:
    calls: list[tuple[str, dict[str, Any]]] = [("get_weather", {"city": "Paris", "days": 3}), ("now", {})]
    found = _found(name)
    calls = calls[: 1 if name in _ONE_CALL else num_calls]
    assert found is not None

    matching = Matching(found.marks)

    assert matching.accepts(found, [_TOOL, _NOW], _answer(name, calls), min_calls=1)
    assert matching.accepts(found, [_TOOL, _NOW], _answer(name, calls), min_calls=0)


@pytest.mark.parametrize("name", ["tags", "tags, text", "thought", "section", "parameters", "keys and values"])
def test_text_before_a_call_comes_back_without_the_templates_space(name: str) -> None:
    found = _found(name)
    assert found is not None

    events = parse(found, _answer(name, [("now", {})], content="Let me see."), {"now"})

    assert text_of(events) == "Let me see."
    assert calls_of(events) == [("now", {})]


@pytest.mark.parametrize("name", ["no tools", "no calls", "not understood"])
def test_nothing_is_found_where_nothing_is_shown(name: str) -> None:
    assert _found(name) is None


def test_a_hint_names_the_format_where_calls_are_left_out() -> None:
    found = find_tool_format(template("no calls, hinted"))

    assert found is not None
    assert (found.name, found.renders_calls) == ("granite", False)


def test_a_named_format_is_adapted_to_the_template() -> None:
    chosen = choose_tool_format(template("section"), "hermes")

    assert chosen is not None
    assert (chosen.name, chosen.takes_object_arguments, chosen.renders_calls) == ("hermes", False, True)


def test_a_named_format_that_is_the_one_found_is_as_the_template_writes_it() -> None:
    chosen = choose_tool_format(template("list with ids"), "mistral")

    assert chosen is not None
    assert chosen.call_id_length == 9
    assert chosen.write([WrittenCall("now", "{}", "123456789")]).endswith('"id": "123456789"}]')


@pytest.mark.parametrize(("name", "takes_several"), [("tags", True), ("one object", False), ("ids alone", True)])
def test_it_is_found_whether_the_template_shows_several_calls(name: str, takes_several: bool) -> None:
    found = _found(name)

    assert found is not None
    assert found.takes_several_calls == takes_several


def test_a_template_may_refuse_system_messages() -> None:
    refusing = ChatTemplate(
        "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}",
        {},
        frozenset(),
        DirectTemplates(),
    )

    assert not takes_system_message(refusing)
    assert takes_system_message(template("tags"))


def test_without_a_name_and_a_format_there_is_none() -> None:
    assert choose_tool_format(template("no tools"), None) is None


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(StartupError, match="hermes"):
        choose_tool_format(template("tags"), "hermez")
