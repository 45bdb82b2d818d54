"""A Messages request as the chat that it asks for."""

from typing import Any

import pytest

from engine.errors import InvalidRequest, UnsupportedParameter
from server.chat.content import template_message
from server.chat.request import ChatRequest
from server.chat.tools import ToolChoice
from server.protocols.messages.request import translate_message
from server.schemas.base import validate
from server.schemas.messages import MessagesRequest

pytestmark = pytest.mark.fast

USER = {"role": "user", "content": "hi"}
TOOL = {"name": "plus", "description": "Adds.", "input_schema": {"type": "object", "properties": {}}}
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "plus", "input": {"a": 1, "b": "é"}}


def _translated(*messages: dict[str, Any], **fields: Any) -> tuple[ChatRequest, list[str]]:
    body = validate(MessagesRequest, {"max_tokens": 5, "messages": list(messages or (USER,)), **fields})
    return translate_message(body, None, strict=False)


def _chat(*messages: dict[str, Any], **fields: Any) -> ChatRequest:
    return _translated(*messages, **fields)[0]


def _ignored(*messages: dict[str, Any], **fields: Any) -> list[str]:
    return _translated(*messages, **fields)[1]


def _messages(*messages: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    written = _chat(*messages, **fields).chat.messages
    return [{**template_message(each), "content": [part.text for part in each.parts]} for each in written]


def test_the_system_prompt_comes_first_whatever_its_form() -> None:
    expected = [{"role": "system", "content": ["S"]}, {"role": "user", "content": ["hi"]}]
    assert _messages(system="S") == expected
    assert _messages(system=[{"type": "text", "text": "S", "cache_control": {"type": "ephemeral"}}]) == expected
    assert _messages({"role": "system", "content": "S"}, USER) == expected
    assert _messages() == expected[1:]


def test_neighbors_of_one_role_are_one_message() -> None:
    assert _messages(USER, {"role": "user", "content": [{"type": "text", "text": "there"}]}) == [
        {"role": "user", "content": ["hi", "there"]}
    ]


def test_calls_and_results_become_those_of_a_chat() -> None:
    thought = {"type": "thinking", "thinking": "hmm", "signature": "x"}
    hidden = {"type": "redacted_thinking", "data": "AAAA"}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "2"}]}
    failed = {"type": "tool_result", "tool_use_id": "toolu_2", "content": "no", "is_error": True}
    _, assistant, first, second, user = _messages(
        USER,
        {"role": "assistant", "content": [thought, hidden, {"type": "text", "text": "Let me see."}, CALL]},
        {"role": "user", "content": [result, failed, {"type": "text", "text": "and?"}]},
    )
    assert assistant["content"] == ["Let me see."]
    assert assistant["reasoning_content"] == "hmm"
    assert assistant["tool_calls"] == [
        {"id": "toolu_1", "type": "function", "function": {"name": "plus", "arguments": '{"a": 1, "b": "é"}'}}
    ]
    assert first == {"role": "tool", "tool_call_id": "toolu_1", "name": "plus", "content": ["2"]}
    assert second == {"role": "tool", "tool_call_id": "toolu_2", "content": ["Error:", "no"]}
    assert user == {"role": "user", "content": ["and?"]}


def test_a_users_message_of_no_blocks_is_refused_and_not_passed_over() -> None:
    """Passed over, the answer would go on with the assistant's message before it."""
    with pytest.raises(InvalidRequest, match="has no blocks") as refused:
        _translated(USER, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": []})
    assert refused.value.param == "messages[2].content"


def test_an_assistants_message_at_the_end_is_gone_on_with() -> None:
    assert _chat(USER, {"role": "assistant", "content": "The answer is"}).options.continue_final_message
    assert not _chat(USER).options.continue_final_message


def test_calls_at_the_end_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="tool_result"):
        _translated(USER, {"role": "assistant", "content": [CALL]})


def test_what_the_agents_servers_bill_is_left_out() -> None:
    billing = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2;"}
    system = [billing, {"type": "text", "text": "S"}]
    assert _messages(system=system)[0]["content"] == ["S"]
    assert _ignored(system=system) == ["system[0]"]


@pytest.mark.parametrize(
    ("role", "block"),
    [
        ("user", CALL),
        ("user", {"type": "thinking", "thinking": "x"}),
        ("assistant", {"type": "tool_result", "tool_use_id": "a"}),
        ("system", CALL),
    ],
)
def test_a_block_of_another_roles_is_refused(role: str, block: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        _translated(USER, {"role": role, "content": [{"type": "text", "text": "x"}, block]})
    assert refused.value.param == "messages[1].content[1]"


@pytest.mark.parametrize("kind", ["image", "document", "search_result", "server_tool_use", "container_upload"])
def test_blocks_of_other_kinds_are_refused_by_name(kind: str) -> None:
    with pytest.raises(UnsupportedParameter, match=f"type (is )?{kind}[ :]") as refused:
        _translated({"role": "user", "content": [{"type": kind}]})
    assert refused.value.param == "messages[0].content[0]"
    result = {"type": "tool_result", "tool_use_id": "a", "content": [{"type": kind}]}
    with pytest.raises(UnsupportedParameter, match=f"type (is )?{kind}[ :]"):
        _translated({"role": "user", "content": [result]})


def test_tools_of_anthropics_own_are_left_out_and_listed() -> None:
    chat, ignored = _translated(tools=[SEARCH, {**TOOL, "cache_control": {"type": "ephemeral"}}])
    (tool,) = chat.chat.tools.definitions
    assert (tool.name, tool.description, tool.parameters) == ("plus", "Adds.", TOOL["input_schema"])
    assert ignored == ["tools[0]"]
    assert chat.paths["tools[0].function.parameters.a"] == "tools[1].input_schema.a"


def test_errors_name_the_clients_tool() -> None:
    with pytest.raises(InvalidRequest) as refused:
        _translated(tools=[SEARCH, {**TOOL, "name": "a b"}])
    assert refused.value.param == "tools[1].name"
    assert str(refused.value).startswith("tools[1].name is 'a b'")


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, ToolChoice("auto")),
        ({"type": "any"}, ToolChoice("required")),
        ({"type": "none"}, ToolChoice("none")),
        ({"type": "tool", "name": "plus"}, ToolChoice("required", ("plus",), is_single=True)),
    ],
)
def test_a_choice_of_tools_is_the_chats(choice: dict[str, Any], expected: object) -> None:
    tools = _chat(tools=[TOOL], tool_choice={**choice, "disable_parallel_tool_use": True}).chat.tools
    assert tools.choice == expected
    assert not tools.is_parallel


def test_a_choice_that_cannot_be_honored_is_refused() -> None:
    with pytest.raises(UnsupportedParameter):
        _translated(tools=[SEARCH, TOOL], tool_choice={"type": "tool", "name": "web_search"})
    with pytest.raises(InvalidRequest, match=r"tool_choice\.name is missing"):
        _translated(tools=[TOOL], tool_choice={"type": "tool"})


@pytest.mark.parametrize("name", ["output_format", "output_config"])
def test_a_schema_is_a_response_format_by_either_name(name: str) -> None:
    given = {"type": "json_schema", "schema": {"type": "object"}}
    chat = _chat(**{name: given if name == "output_format" else {"format": given}})
    assert chat.options.extra["response_format"]["json_schema"]["schema"] == {"type": "object"}
    path = name if name == "output_format" else "output_config.format"
    assert chat.paths["response_format.json_schema.schema.x"] == f"{path}.schema.x"


def test_both_names_of_a_schema_are_refused() -> None:
    given = {"type": "json_schema", "schema": {}}
    with pytest.raises(InvalidRequest, match="both"):
        _translated(output_format=given, output_config={"format": given})


@pytest.mark.parametrize("name", ["container", "mcp_servers"])
def test_what_would_change_the_answer_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        _translated(**{name: ["x"]})
    assert refused.value.param == name
    assert _ignored(**{name: None}) == []


def test_a_thread_is_refused_with_the_code_at_which_clients_send_all_messages() -> None:
    with pytest.raises(InvalidRequest) as refused:
        _translated(thread={"type": "create"})
    assert refused.value.code == "thread_unsupported_request"


def test_what_cannot_be_honored_is_listed_and_what_asks_for_nothing_is_not() -> None:
    ignored = _ignored(
        metadata={"user_id": "x"},
        context_management={"edits": []},
        speed="fast",
        output_config={"task_budget": {}},
        tools=[{**TOOL, "input_examples": [{}]}],
        surprise=1,
    )
    listed = ["metadata", "context_management", "speed", "surprise", "output_config.task_budget"]
    assert sorted(ignored) == sorted([*listed, "tools[0].input_examples"])
    cached = {"type": "ephemeral"}
    nothing = _ignored(
        {"role": "user", "content": [{"type": "text", "text": "x", "citations": None, "cache_control": cached}]},
        metadata={},
        speed="standard",
        service_tier="auto",
        cache_control=cached,
        betas=[],
    )
    assert nothing == []


def test_what_tools_ask_for_is_listed_even_under_strict_parameters() -> None:
    quiet = {"eager_input_streaming": True, "defer_loading": False, "allowed_callers": ["direct"]}
    body = validate(
        MessagesRequest,
        {
            "max_tokens": 5,
            "messages": [USER],
            "tools": [{**TOOL, **quiet}, {**TOOL, "name": "b", "defer_loading": True}],
        },
    )
    assert translate_message(body, None, strict=True)[1] == ["tools[1].defer_loading"]


def test_strict_parameters_refuse_unknown_ones() -> None:
    body = validate(MessagesRequest, {"max_tokens": 5, "messages": [USER], "surprise": 1})
    with pytest.raises(InvalidRequest, match="--strict-parameters"):
        translate_message(body, None, strict=True)


def test_fields_with_the_same_meaning_go_on_and_faults_have_the_clients_name() -> None:
    chat = _chat(temperature=0.5, top_p=0.9, top_k=3, stop_sequences=["END"], stream=True).options
    assert (chat.temperature, chat.top_p, chat.top_k, chat.stop, chat.stream) == (0.5, 0.9, 3, ["END"], True)
    with pytest.raises(InvalidRequest) as refused:
        _translated(stop_sequences=[""])
    assert refused.value.param == "stop_sequences"
