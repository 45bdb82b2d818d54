"""Items become the messages of a chat: one answer of the assistant's, of any number of items, is one message."""

from typing import Any

import pytest

from engine.errors import InvalidRequest
from server.chat.content import ChatMessage
from server.chat.request import Chat, ClientPaths, content_paths
from server.protocols.responses.items import messages_of_items
from server.protocols.responses.stored import items_of
from server.protocols.responses.thoughts import decode_thought, encode_thought

pytestmark = pytest.mark.fast

USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": [{"type": "output_text", "text": "Well."}]}
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}


def _call(call_id: str, **fields: Any) -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": "f", "arguments": "{}", **fields}


def _output(call_id: str, output: Any = "5") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def _chat(*items: dict[str, Any], **options: Any) -> list[ChatMessage]:
    messages, _ = messages_of_items(items_of(list(items)), **options)
    return messages


def _text(message: ChatMessage) -> str | None:
    return "|".join(part.text for part in message.parts) if message.parts else None


def _shapes(*items: dict[str, Any]) -> list[tuple[str, str | None, str | None, int]]:
    """role, content, thought and number of calls of each message."""
    return [(each.role, _text(each), each.fields.get("reasoning_content"), len(each.calls)) for each in _chat(*items)]


def test_thought_text_and_calls_of_one_answer_are_one_message() -> None:
    assert _shapes(USER, THOUGHT, ANSWER, _call("a"), _call("b"), _output("a"), _output("b")) == [
        ("user", "hi", None, 0),
        ("assistant", "Well.", "hm", 2),
        ("tool", "5", None, 0),
        ("tool", "5", None, 0),
    ]


def test_answers_that_follow_each_other_stay_apart() -> None:
    assert _shapes(ANSWER, ANSWER) == [("assistant", "Well.", None, 0)] * 2
    assert _shapes(ANSWER, THOUGHT, ANSWER) == [("assistant", "Well.", None, 0), ("assistant", "Well.", "hm", 0)]


def test_what_is_thought_and_said_between_calls_belongs_to_them() -> None:
    assert _shapes(ANSWER, _call("a"), THOUGHT, ANSWER, _call("b"), _output("a"), _output("b"))[0] == (
        "assistant",
        "Well.|Well.",
        "hm",
        2,
    )


def test_a_call_after_an_output_is_of_the_next_answer() -> None:
    assert [shape[0] for shape in _shapes(_call("a"), _output("a"), _call("b"), _output("b"))] == [
        "assistant",
        "tool",
        "assistant",
        "tool",
    ]


def test_calls_of_custom_tools_are_calls_of_functions_with_an_input() -> None:
    custom = {"type": "custom_tool_call", "call_id": "a", "name": "patch", "input": 'a "b"\n'}
    output = {"type": "custom_tool_call_output", "call_id": "a", "output": [{"type": "input_text", "text": "ok"}]}
    call, answer = _chat(custom, output)
    assert (call.calls[0].name, call.calls[0].arguments) == ("patch", '{"input": "a \\"b\\"\\n"}')
    assert (answer.role, answer.tool_call_id, _text(answer)) == ("tool", "a", "ok")


def test_a_call_in_a_namespace_has_the_name_that_the_model_knows() -> None:
    (message,) = _chat(_call("a", namespace="files"))
    assert message.calls[0].name == "files__f"


def test_instructions_come_first_and_paths_lead_to_what_the_client_sent() -> None:
    chat = _chat(USER, ANSWER, num_stored=1, instructions="Be kind.")
    assert (chat[0].role, _text(chat[0])) == ("system", "Be kind.")
    assert content_paths(Chat(chat)) == {
        "messages[0]": "instructions",
        "messages[1]": "input",
        "messages[2]": "input[0]",
    }


def test_the_path_of_a_calls_arguments_leads_to_its_item() -> None:
    chat = _chat(USER, _call("a"), ANSWER, _call("b"), _output("a"), _output("b"))
    path = "messages[1].tool_calls[1].function.arguments"
    assert ClientPaths({}, Chat(chat))[path] == "input[3].arguments"


def test_a_stored_output_without_its_call_is_told_by_the_conversations_item() -> None:
    with pytest.raises(InvalidRequest, match=r"item 'fco_1' .* 'z', .* delete it from the conversation") as caught:
        _chat({**_output("z"), "id": "fco_1"}, USER, num_stored=1)
    assert caught.value.param == "conversation"


def test_a_refusal_is_what_the_assistant_said() -> None:
    (message,) = _chat({"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]})
    assert _text(message) == "No."


@pytest.mark.parametrize(
    ("fields", "thought"),
    [
        ({"summary": [{"type": "summary_text", "text": "s"}]}, "s"),
        ({"summary": [], "encrypted_content": encode_thought("deep")}, "deep"),
        ({"content": [{"type": "reasoning_text", "text": "t"}], "encrypted_content": encode_thought("deep")}, "t"),
    ],
)
def test_a_thought_is_taken_from_where_it_is(fields: dict[str, Any], thought: str) -> None:
    (message,) = _chat({"type": "reasoning", **fields})
    assert message.fields["reasoning_content"] == thought


def test_what_nobody_here_can_read_is_listed() -> None:
    items = [
        {"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {}},
        {**USER, "phase": "commentary"},
    ]
    messages, ignored = messages_of_items(items_of(items))
    assert ignored == ["input[0]", "input[1]", "input[2].phase"]
    assert len(messages) == 1
    assert decode_thought("headrace1:!") is None


@pytest.mark.parametrize(
    ("items", "param", "part"),
    [
        ([_output("z")], "input[0].call_id", "is 'z', and no item before it"),
        ([_output("a"), _call("a")], "input[0].call_id", "no item before it"),
        ([USER, {"type": "item_reference", "id": "msg_1"}], "input[1]", "'msg_1', which is not stored here"),
        ([USER, {"id": "msg_1"}], "input[1]", "not stored here"),
        ([{"type": "shell_call"}], "items[0]", "give the call as function_call"),
        ([{"role": "user", "content": [{"type": "input_image"}]}], "items[0].content[0]", "takes only text"),
        ([{"role": "tool", "content": "x"}], "items[0].role", "it must be 'user', 'assistant'"),
        ([5], "items[0]", "it must be an object"),
    ],
)
def test_what_makes_no_chat_is_refused_with_its_place(items: Any, param: str, part: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        _chat(*items)
    assert caught.value.param == param
    assert part in str(caught.value)
