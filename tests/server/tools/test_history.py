from typing import Any

import pytest

from engine.errors import InvalidRequest
from server.tools.history import template_chat
from server.tools.registry import named_format
from tests.server.tools.parsing import calls_of, parse

pytestmark = pytest.mark.fast

_TOOLS: list[dict[str, Any]] = [{"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}]
_USER = {"role": "user", "content": "What time is it?"}


def _called(arguments: Any = '{"zone": "UTC"}', call_id: str = "call_1") -> dict[str, Any]:
    function = {"name": "now", "arguments": arguments}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": call_id, "type": "function", "function": function}],
    }


def _result(call_id: str = "call_1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": "noon"}


def _only_call(messages: list[dict[str, Any]]) -> dict[str, Any]:
    call: dict[str, Any] = messages[1]["tool_calls"][0]
    return call


def test_arguments_become_an_object_where_the_template_takes_one() -> None:
    message = _called()

    chat = template_chat(named_format("hermes"), [_USER, message], _TOOLS)

    assert _only_call(chat.messages)["function"]["arguments"] == {"zone": "UTC"}
    assert message == _called()
    assert chat.tools == _TOOLS


def test_arguments_stay_text_where_the_template_takes_text() -> None:
    chat = template_chat(named_format("deepseek_v31"), [_USER, _called('{"zone":"UTC"}')], _TOOLS)

    assert _only_call(chat.messages)["function"]["arguments"] == '{"zone":"UTC"}'


@pytest.mark.parametrize("arguments", ["", None])
def test_no_arguments_are_an_empty_object(arguments: Any) -> None:
    chat = template_chat(named_format("hermes"), [_USER, _called(arguments)], _TOOLS)

    assert _only_call(chat.messages)["function"]["arguments"] == {}


@pytest.mark.parametrize("arguments", ["{", "[1]", "[" * 100_000])
def test_arguments_that_are_no_object_are_refused_with_their_place(arguments: str) -> None:
    with pytest.raises(InvalidRequest, match=r"messages\[1\].tool_calls\[0\].function.arguments") as error:
        template_chat(named_format("hermes"), [_USER, _called(arguments)], _TOOLS)

    assert error.value.param == "messages[1].tool_calls[0].function.arguments"


def test_ids_get_the_length_that_the_template_demands_and_still_match() -> None:
    chat = template_chat(named_format("mistral"), [_USER, _called(), _result()], _TOOLS)

    call_id = _only_call(chat.messages)["id"]
    assert len(call_id) == 9
    assert call_id.isalnum()
    assert chat.messages[2]["tool_call_id"] == call_id


def test_ids_of_the_right_length_stay() -> None:
    chat = template_chat(named_format("mistral"), [_USER, _called(call_id="abcdef123")], _TOOLS)

    assert _only_call(chat.messages)["id"] == "abcdef123"


def test_calls_that_the_template_leaves_out_become_content() -> None:
    granite = named_format("granite")

    chat = template_chat(granite, [_USER, _called(), _result()], _TOOLS)

    assert "tool_calls" not in chat.messages[1]
    assert calls_of(parse(granite, chat.messages[1]["content"], {"now"})) == [("now", {"zone": "UTC"})]
    assert chat.messages[2]["role"] == "tool"


def test_calls_come_one_by_one_where_the_template_takes_one() -> None:
    message = _called(call_id="a")
    message["content"] = "Two calls."
    message["tool_calls"] += _called(call_id="b")["tool_calls"]

    chat = template_chat(named_format("llama3_json"), [_USER, message, _result("b"), _result("a"), _USER], _TOOLS)

    shown = [
        (each["role"], [call["id"] for call in each.get("tool_calls", ())], each.get("tool_call_id"))
        for each in chat.messages[1:-1]
    ]
    assert shown == [
        ("assistant", ["a"], None), ("tool", [], "a"), ("assistant", ["b"], None), ("tool", [], "b")
    ]  # fmt: skip
    assert [each["content"] for each in chat.messages[1::2]] == ["Two calls.", "", "What time is it?"]


@pytest.mark.parametrize("arguments", ["{", "[1]", '"x"', '{"a": ' + "[" * 200 + "]" * 200 + "}"])
@pytest.mark.parametrize("name", ["lfm2", "granite", "generic"])
def test_arguments_that_cannot_be_written_are_refused(name: str, arguments: str) -> None:
    with pytest.raises(InvalidRequest, match=r"messages\[1\].tool_calls\[0\].function.arguments"):
        template_chat(named_format(name), [_USER, _called(arguments)], _TOOLS)


def test_without_a_system_role_the_instruction_goes_to_the_user() -> None:
    chat = template_chat(None, [_USER], _TOOLS, has_system_role=False)

    assert [message["role"] for message in chat.messages] == ["user"]
    assert chat.messages[0]["content"].endswith("\n\nWhat time is it?")


def test_the_generic_format_shows_tools_in_a_system_message() -> None:
    chat = template_chat(None, [_USER], _TOOLS)

    assert chat.tools is None
    assert chat.messages[0]["role"] == "system"
    assert '{"name": "now", "parameters": {"type": "object"}}' in chat.messages[0]["content"]
    assert chat.messages[1] == _USER


def test_the_generic_format_adds_to_a_system_message() -> None:
    chat = template_chat(None, [{"role": "system", "content": "Be brief."}, _USER], _TOOLS)

    assert len(chat.messages) == 2
    assert chat.messages[0]["content"].startswith("Be brief.\n\n")


def test_the_generic_format_writes_calls_and_results_as_text_in_turns() -> None:
    messages = [_USER, _called(), _result("a"), _result("b"), {"role": "user", "content": "And now?"}]

    chat = template_chat(None, messages, _TOOLS)

    assert [message["role"] for message in chat.messages] == ["system", "user", "assistant", "user"]
    assert calls_of(parse(named_format("generic"), chat.messages[2]["content"], {"now"})) == [("now", {"zone": "UTC"})]
    assert chat.messages[3]["content"].count("<tool_response>\nnoon\n</tool_response>") == 2
    assert chat.messages[3]["content"].endswith("And now?")


def test_without_tools_the_generic_format_adds_nothing() -> None:
    assert template_chat(None, [_USER], []).messages == [_USER]
