"""Tools in chats: which grammar and prompt they make, and calls in answers as OpenAI's API has them."""

import json
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from engine.protocol import FinishReason
from tests.helpers.chat_templates import TOOL_TEMPLATE, TWO_CALLS
from tests.helpers.fake_client import IM_END, FakeClient, engine_info, http, make_app, prompt_text, says
from tests.helpers.sse import events

pytestmark = pytest.mark.fast

MESSAGES = [{"role": "user", "content": "hi"}]
ADD = {
    "type": "function",
    "function": {"name": "plus", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
}
NOW = {"type": "function", "function": {"name": "now"}}
TAGGED = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}\n<tool_call>\n<function={{ c.function.name }}>\n"
    "{% for k, v in c.function.arguments.items() %}<parameter={{ k }}>\n{{ v if v is string else v | tojson }}\n"
    "</parameter>\n{% endfor %}</function>\n</tool_call>{% endfor %}"
    "\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


async def _chat(client: FakeClient, template: str | None = TOOL_TEMPLATE, **fields: Any) -> httpx.Response:
    async with http(make_app(client, chat_template=template)) as api:
        return await api.post("/v1/chat/completions", json={"messages": MESSAGES, "tools": [ADD, NOW], **fields})


async def test_calls_are_told_from_content() -> None:
    response = await _chat(FakeClient(says(f"Let me see.\n{TWO_CALLS}")))
    (choice,) = response.json()["choices"]
    assert choice["finish_reason"] == "length"  # as the engine says
    assert choice["message"]["content"] == "Let me see."
    first, second = choice["message"]["tool_calls"]
    assert first["type"] == "function"
    assert first["function"] == {"name": "plus", "arguments": '{"a": 1}'}
    assert second["function"] == {"name": "now", "arguments": "{}"}
    assert first["id"].startswith("call_")
    assert first["id"] != second["id"]


async def test_an_answer_of_calls_alone_has_no_content() -> None:
    response = await _chat(FakeClient(says(TWO_CALLS, finish=FinishReason.STOP)))
    (choice,) = response.json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None


@pytest.mark.parametrize("per_step", [1, 7, 500])
async def test_a_stream_has_name_and_id_once_and_the_same_calls(per_step: int) -> None:
    response = await _chat(FakeClient(says(TWO_CALLS, per_step=per_step)), stream=True)
    pieces = [
        piece
        for event in events(response.text)[:-1]
        for choice in event["choices"]
        for piece in choice["delta"].get("tool_calls", [])
    ]
    calls: dict[int, dict[str, str]] = {}
    for piece in pieces:
        if "id" in piece:
            assert piece["index"] not in calls
            assert piece["type"] == "function"
            calls[piece["index"]] = {"name": piece["function"]["name"], "arguments": ""}
        else:
            assert set(piece) == {"index", "function"}
            assert set(piece["function"]) == {"arguments"}
        calls[piece["index"]]["arguments"] += piece["function"]["arguments"]
    assert calls == {0: {"name": "plus", "arguments": '{"a": 1}'}, 1: {"name": "now", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("fields", "parts", "missing"),
    [
        ({}, ["plus", "now", "TEXT"], []),
        ({"tool_choice": "required"}, ["plus", "now"], []),
        ({"tool_choice": {"type": "function", "function": {"name": "now"}}}, ["now"], ["plus"]),
        (
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {
                        "mode": "required",
                        "tools": [{"type": "function", "function": {"name": "plus"}}],
                    },
                }
            },
            ["plus"],
            ["now"],
        ),
    ],
)
async def test_the_grammar_has_the_tools_that_may_be_called(
    fields: dict[str, Any], parts: list[str], missing: list[str]
) -> None:
    client = FakeClient(says("x"))
    assert (await _chat(client, **fields)).status_code == 200
    grammar = client.requests[0].grammar or ""
    assert all(part in grammar for part in parts)
    assert not any(part in grammar for part in missing)
    assert '"name": "plus"' in prompt_text(client)  # the model is shown all
    assert '"name": "now"' in prompt_text(client)


async def test_no_tool_is_shown_where_none_may_be_called() -> None:
    client = FakeClient(says(TWO_CALLS))
    response = await _chat(client, tool_choice="none")
    assert response.json()["choices"][0]["message"]["content"] == TWO_CALLS
    assert client.requests[0].grammar is None
    assert "plus" not in prompt_text(client)


async def test_earlier_calls_and_results_reach_the_template() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "plus", "arguments": '{"a":1}', "parsed": 1}}
    messages = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "one"},
    ]
    client = FakeClient(says("x"))
    assert (await _chat(client, messages=messages, tools=[])).status_code == 200
    call_text = '<tool_call>\n{"name": "plus", "arguments": {"a": 1}}\n</tool_call>'
    assert prompt_text(client) == f"<user>hi<assistant>{call_text}<tool>one<assistant>"


async def test_a_template_without_tools_gets_a_prompt_of_our_own_and_a_header_says_so() -> None:
    client = FakeClient(says(TWO_CALLS), engine_info(max_model_len=4000))
    plain = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    response = await _chat(client, plain)
    assert response.status_code == 200
    assert response.headers["x-tool-call-format"] == "generic"
    assert "Call a function only if it helps" in prompt_text(client)
    names = [call["function"]["name"] for call in response.json()["choices"][0]["message"]["tool_calls"]]
    assert names == ["plus", "now"]
    without = await _chat(client, plain, tools=[])
    assert "x-tool-call-format" not in without.headers


async def test_arguments_are_an_object_whatever_else_the_schema_takes() -> None:
    client = FakeClient(says("x"))
    parameters = {"type": ["object", "null"], "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    assert (await _chat(client, tools=[tool], tool_choice="required")).status_code == 200
    assert "null" not in (client.requests[0].grammar or "null")


async def test_a_stop_string_within_a_call_is_no_finished_call() -> None:
    response = await _chat(FakeClient(says(TWO_CALLS)), stop=['arguments": {"a'])
    (choice,) = response.json()["choices"]
    assert choice["finish_reason"] == "stop"
    response = await _chat(FakeClient(says(TWO_CALLS)), stop=['": 1'])
    (choice,) = response.json()["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"a'


async def test_functions_are_the_old_name_of_tools() -> None:
    client = FakeClient(says(TWO_CALLS))
    async with http(make_app(client, chat_template=TOOL_TEMPLATE)) as api:
        body = {
            "messages": MESSAGES,
            "functions": [ADD["function"], NOW["function"]],
            "function_call": {"name": "plus"},
        }
        message = (await api.post("/v1/chat/completions", json=body)).json()["choices"][0]["message"]
    assert message["function_call"] == {"name": "plus", "arguments": '{"a": 1}'}
    assert "tool_calls" not in message
    assert "now" not in (client.requests[0].grammar or "now")


@pytest.mark.parametrize(
    ("fields", "param", "part"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "sub"}}}, "tool_choice", "tools are plus, now"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]},
            "tools[0].function.parameters.type",
            "arguments are an object",
        ),
        ({"tools": [ADD, ADD]}, "tools", "tools has two tools called 'plus'"),
        ({"tools": [ADD], "functions": [NOW["function"]]}, "functions", "give one"),
        ({"tools": [{"type": "function", "function": {"name": f"f{n}"}} for n in range(500)]}, "tools", "at most 128"),
        ({"tools": [{"type": "function", "function": {"name": "a/b"}}]}, "tools[0].function.name", "_ . - characters"),
        ({"function_call": {}}, "function_call.name", "is missing"),
        ({"function_call": {"name": "zz"}}, "function_call", "function_call names 'zz'"),
        ({"function_call": "auto", "tool_choice": "auto"}, "function_call", "give one"),
        ({"tools": [], "function_call": {"name": "plus"}}, "function_call", "function_call asks for a call"),
    ],
)
async def test_what_makes_no_sense_is_refused(fields: dict[str, Any], param: str, part: str) -> None:
    response = await _chat(FakeClient(says("x")), **fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert part in response.json()["error"]["message"]


async def test_what_the_format_does_not_enforce_is_listed() -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^x"}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    response = await _chat(FakeClient(says("x")), TAGGED, tools=[tool])
    assert response.status_code == 200
    assert response.headers["x-ignored-parameters"] == "tools[0].function.parameters.properties.a.pattern"
    tool["function"]["strict"] = True
    response = await _chat(FakeClient(says("x")), TAGGED, tools=[tool])
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "tools[0].function.parameters.properties.a.pattern"


async def test_a_tool_that_the_format_cannot_write_is_refused() -> None:
    parameters = {"type": "object", "properties": {"a<b": {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    response = await _chat(FakeClient(says("x")), TAGGED, tools=[tool])
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "tools[0].function.parameters"
    assert "the property 'a<b'" in response.json()["error"]["message"]
    assert (await _chat(FakeClient(says("x")), tools=[tool])).status_code == 200  # in JSON it can


@pytest.mark.parametrize(
    ("choice", "param", "part"),
    [
        ("always", "tool_choice", "it must be none, auto, required"),
        (["auto"], "tool_choice", "it must be none, auto, required"),
        ({"type": "custom"}, "tool_choice", "it must be one of function, allowed_tools"),
        ({"type": ["function"]}, "tool_choice", "it must be one of function, allowed_tools"),
        ({"type": "function"}, "tool_choice.function", "is missing"),
        ({"type": "function", "name": "plus"}, "tool_choice.function", "is missing"),
        ({"type": "function", "function": {}}, "tool_choice.function.name", "is missing"),
        ({"type": "function", "function": {"name": 1}}, "tool_choice.function.name", "is 1; it must be a string"),
        ({"type": "allowed_tools"}, "tool_choice.allowed_tools", "is missing"),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
            "tool_choice.allowed_tools.tools",
            "at least 1",
        ),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "all", "tools": [NOW]}},
            "tool_choice.allowed_tools.mode",
            "must be 'auto' or 'required'",
        ),
    ],
)
async def test_a_malformed_choice_is_refused_with_its_place(choice: Any, param: str, part: str) -> None:
    response = await _chat(FakeClient(says("x")), tool_choice=choice)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert part in response.json()["error"]["message"]


async def test_the_official_client_reads_a_streamed_call() -> None:
    app = make_app(FakeClient(says(TWO_CALLS, per_step=3)), chat_template=TOOL_TEMPLATE)
    async with http(app) as api:
        client = AsyncOpenAI(base_url="http://server/v1", api_key="none", http_client=api)
        async with client.chat.completions.stream(model="org/tiny", messages=MESSAGES, tools=[ADD, NOW]) as stream:  # type: ignore[arg-type]
            received = [event async for event in stream]
    done = [event for event in received if event.type == "tool_calls.function.arguments.done"]
    assert [(event.name, json.loads(event.arguments)) for event in done] == [("plus", {"a": 1}), ("now", {})]


@pytest.mark.parametrize("per_step", [1, 7, 500])
@pytest.mark.parametrize("fields", [{}, {"logprobs": True}, {"return_token_ids": True}])
async def test_a_stream_of_calls_alone_has_no_content(per_step: int, fields: dict[str, Any]) -> None:
    client = FakeClient(says(TWO_CALLS, per_step=per_step, finish=FinishReason.STOP))
    chunks = events((await _chat(client, stream=True, **fields)).text)[:-1]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert choices[0]["delta"] == {"role": "assistant", "content": None, "refusal": None}
    *calls, last = choices[1:]
    assert all(choice["delta"].keys() == {"tool_calls"} for choice in calls)
    assert (last["delta"], last["finish_reason"]) == ({}, "tool_calls")
    if "logprobs" in fields:  # none is lost: they come with what their tokens became
        scored = [each["token"] for choice in choices if choice["logprobs"] for each in choice["logprobs"]["content"]]
        assert "".join(scored) == f"{TWO_CALLS}<|im_end|>"
    if "return_token_ids" in fields:
        ids = [token_id for choice in choices for token_id in choice.get("token_ids", [])]
        assert ids == [*TWO_CALLS.encode(), IM_END]


async def test_a_stream_with_tools_that_begins_with_text_begins_with_empty_content() -> None:
    response = await _chat(FakeClient(says(f"Let me see.\n{TWO_CALLS}")), stream=True)
    first, second, *_ = [choice["delta"] for chunk in events(response.text)[:-1] for choice in chunk["choices"]]
    assert first == {"role": "assistant", "content": "", "refusal": None}
    assert second == {"content": "L"}
