"""POST /v1/responses over ASGI: items in, items out, and the events between."""

from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from engine.protocol import FinishReason
from tests.helpers.fake_client import MODEL, FakeClient, engine_info, http, make_app, says
from tests.helpers.response_events import events_of

pytestmark = pytest.mark.fast

ADD = {
    "type": "function",
    "name": "plus",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
}
NOW = {"type": "function", "name": "now"}
CALLS = '<tool_call>\n{"name": "plus", "arguments": {"a": 1}}\n</tool_call>\n<tool_call>\n{"name": "now"}\n</tool_call>'
TEMPLATE = (
    "{% if tools %}{% for t in tools %}{{ t | tojson }}\n{% endfor %}{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}'
    "\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def _client(text: str, *, per_step: int = 3, finish: FinishReason = FinishReason.STOP) -> FakeClient:
    return FakeClient(says(text, per_step=per_step, finish=finish), engine_info(max_model_len=4000))


async def _respond(client: FakeClient, path: str = "", **fields: Any) -> httpx.Response:
    async with http(make_app(client, chat_template=TEMPLATE)) as api:
        return await api.post(f"/v1/responses{path}", json={"input": "hi", **fields})


def _prompt(client: FakeClient) -> str:
    return bytes(token for token in client.requests[0].prompt_ids if token < 256).decode()


async def test_a_text_is_answered_with_a_message() -> None:
    client = _client("Hello.")
    response = (await _respond(client, instructions="Be kind.", metadata={"a": "b"})).json()
    (item,) = response["output"]
    assert (item["type"], item["role"], item["status"]) == ("message", "assistant", "completed")
    assert item["content"] == [{"type": "output_text", "text": "Hello.", "annotations": [], "logprobs": []}]
    assert (response["status"], response["error"], response["incomplete_details"]) == ("completed", None, None)
    assert (response["instructions"], response["metadata"]) == ("Be kind.", {"a": "b"})
    assert response["usage"]["output_tokens"] == len("Hello.") + 1
    assert _prompt(client) == "<system>Be kind.<user>hi<assistant>"


async def test_calls_are_items_of_their_own() -> None:
    response = (await _respond(_client(f"Let me see.\n{CALLS}"), tools=[ADD, NOW])).json()
    message, first, second = response["output"]
    assert message["content"][0]["text"] == "Let me see."
    assert (first["type"], first["name"], first["arguments"]) == ("function_call", "plus", '{"a": 1}')
    assert (second["name"], second["arguments"], second["status"]) == ("now", "{}", "completed")
    assert first["call_id"] != second["call_id"]


async def test_a_stream_goes_from_created_to_completed() -> None:
    events = events_of((await _respond(_client(f"Let me see.\n{CALLS}"), tools=[ADD, NOW], stream=True)).text)
    types = [event["type"] for event in events]
    assert list(dict.fromkeys(types)) == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.completed",
    ]
    assert types.count("response.output_item.done") == 3


async def test_what_is_not_honored_is_listed_by_the_clients_names() -> None:
    response = await _respond(
        _client("x"),
        tools=[{"type": "web_search"}, NOW],
        user="me",
        text={"verbosity": "low"},
        reasoning={"effort": "low"},
    )
    listed = response.headers["x-ignored-parameters"].split(", ")
    assert sorted(listed) == ["reasoning.effort", "text.verbosity", "tools[0]", "user"]


async def test_faults_are_told_by_the_clients_names() -> None:
    tools = [{"type": "web_search"}, {**ADD, "parameters": {"type": "string"}}]
    error = (await _respond(_client("x"), tools=tools)).json()["error"]
    assert error["param"] == "tools[1].parameters.type"
    assert error["message"].startswith("tools[1].parameters.type is 'string'")
    error = (await _respond(_client("x"), max_output_tokens=9999)).json()["error"]
    assert (error["param"], error["code"]) == ("max_output_tokens", "context_length_exceeded")
    assert "max_output_tokens is 9999" in error["message"]


async def test_the_tokens_of_an_input_are_those_of_its_prompt() -> None:
    client = _client("x")
    await _respond(client, tools=[ADD])
    counted = await _respond(client, "/input_tokens", tools=[ADD])
    assert counted.json() == {"object": "response.input_tokens", "input_tokens": len(client.requests[0].prompt_ids)}


async def test_the_official_client_reads_a_stream() -> None:
    app = make_app(_client(CALLS), chat_template=TEMPLATE)
    async with http(app) as api:
        client = AsyncOpenAI(base_url="http://server/v1", api_key="none", http_client=api)
        async with client.responses.stream(model=MODEL, input="hi", tools=[ADD, NOW]) as stream:  # type: ignore[list-item]
            received = [event async for event in stream]
            response = await stream.get_final_response()
    assert received[0].type == "response.created"
    calls = [item for item in response.output if item.type == "function_call"]
    assert [(call.name, call.arguments) for call in calls] == [("plus", '{"a": 1}'), ("now", "{}")]
