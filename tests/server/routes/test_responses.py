"""POST /v1/responses over ASGI: items in, items out, and the events between."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pydantic
import pytest
from openai import AsyncOpenAI
from openai.types.responses import Response as OpenAIResponse
from openai.types.responses import ResponseStreamEvent

from engine.errors import EngineDied
from engine.protocol import EngineRequest, FinishReason, RequestOutput
from tests.helpers.asgi import RawRequest
from tests.helpers.chat_templates import TOOL_TEMPLATE, TWO_CALLS
from tests.helpers.deadline import until
from tests.helpers.fake_client import (
    MODEL,
    FakeClient,
    FakeStream,
    Step,
    engine_info,
    http,
    make_app,
    prompt_text,
    says,
)
from tests.helpers.response_events import events_of

pytestmark = pytest.mark.fast

ADD = {
    "type": "function",
    "name": "plus",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
}
NOW = {"type": "function", "name": "now"}


def _client(text: str, *, per_step: int = 3, finish: FinishReason = FinishReason.STOP) -> FakeClient:
    return FakeClient(says(text, per_step=per_step, finish=finish), engine_info(max_model_len=4000))


async def _respond(client: FakeClient, path: str = "", **fields: Any) -> httpx.Response:
    async with http(make_app(client, chat_template=TOOL_TEMPLATE)) as api:
        return await api.post(f"/v1/responses{path}", json={"input": "hi", **fields})


async def test_a_text_is_answered_with_a_message() -> None:
    client = _client("Hello.")
    response = (await _respond(client, instructions="Be kind.", metadata={"a": "b"})).json()
    (item,) = response["output"]
    assert (item["type"], item["role"], item["status"]) == ("message", "assistant", "completed")
    assert item["content"] == [{"type": "output_text", "text": "Hello.", "annotations": [], "logprobs": []}]
    assert (response["status"], response["error"], response["incomplete_details"]) == ("completed", None, None)
    assert (response["instructions"], response["metadata"]) == ("Be kind.", {"a": "b"})
    assert response["usage"]["output_tokens"] == len("Hello.") + 1
    assert prompt_text(client) == "<system>Be kind.<user>hi<assistant>"


async def test_calls_are_items_of_their_own() -> None:
    response = (await _respond(_client(f"Let me see.\n{TWO_CALLS}"), tools=[ADD, NOW])).json()
    message, first, second = response["output"]
    assert message["content"][0]["text"] == "Let me see."
    assert (first["type"], first["name"], first["arguments"]) == ("function_call", "plus", '{"a": 1}')
    assert (second["name"], second["arguments"], second["status"]) == ("now", "{}", "completed")
    assert first["call_id"] != second["call_id"]


async def test_a_stream_goes_from_created_to_completed() -> None:
    events = events_of((await _respond(_client(f"Let me see.\n{TWO_CALLS}"), tools=[ADD, NOW], stream=True)).text)
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
    app = make_app(_client(TWO_CALLS), chat_template=TOOL_TEMPLATE)
    async with http(app) as api:
        client = AsyncOpenAI(base_url="http://server/v1", api_key="none", http_client=api)
        async with client.responses.stream(model=MODEL, input="hi", tools=[ADD, NOW]) as stream:  # type: ignore[list-item]
            received = [event async for event in stream]
            response = await stream.get_final_response()
    assert received[0].type == "response.created"
    calls = [item for item in response.output if item.type == "function_call"]
    assert [(call.name, call.arguments) for call in calls] == [("plus", '{"a": 1}'), ("now", "{}")]


def _breaks(error: Exception, *before: int) -> FakeClient:
    def script(request: EngineRequest) -> list[Step]:
        return [*(RequestOutput(id=request.id, new_ids=[token]) for token in before), error]

    return FakeClient(script, engine_info(max_model_len=4000))


async def test_an_error_before_the_first_token_is_an_ordinary_one() -> None:
    response = await _respond(_breaks(EngineDied("the engine ended")), stream=True)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_died")


async def test_a_stream_that_breaks_ends_with_a_failed_response() -> None:
    events = events_of((await _respond(_breaks(EngineDied("the engine ended"), 72, 105), stream=True)).text)
    last = events[-1]
    assert last["type"] == "response.failed"
    response = last["response"]
    assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
    assert "the engine ended" in response["error"]["message"]
    (item,) = response["output"]
    assert (item["status"], item["content"][0]["text"]) == ("incomplete", "Hi")
    assert response["usage"]["output_tokens"] == 2


async def test_a_stream_that_breaks_in_its_first_silence_still_has_a_beginning() -> None:
    class Late(FakeStream):
        async def __aiter__(self) -> AsyncIterator[RequestOutput]:
            await until(lambda: b": ping" in request.body)
            raise EngineDied("the engine ended")
            yield  # which makes it a generator

    client = _client("x")
    client.submit = lambda request, **_: Late(client, request, [])  # type: ignore[method-assign]
    app = make_app(client, chat_template=TOOL_TEMPLATE, sse_ping_interval=0.01)
    request = RawRequest(app, "/v1/responses", {"input": "hi", "stream": True})
    async with request:
        await request.ended()
    events = events_of(request.body.decode().replace(": ping\n\n", ""))
    assert [event["type"] for event in events] == ["response.created", "response.in_progress", "response.failed"]
    assert [event["response"]["status"] for event in events] == ["in_progress", "in_progress", "failed"]


async def test_a_grammar_that_the_engine_refuses_is_blamed_on_the_clients_field() -> None:
    def script(request: EngineRequest) -> list[Step]:
        finish = FinishReason.ERROR
        return [RequestOutput(id=request.id, new_ids=[], finish_reason=finish, error="too large", is_refused=True)]

    client = FakeClient(script, engine_info(max_model_len=4000))
    for stream in (False, True):
        response = await _respond(client, text={"format": {"type": "json_object"}}, stream=stream)
        assert response.json()["error"]["param"] == "text.format"
        assert response.json()["error"]["message"].startswith("text.format cannot be followed: too large")


async def test_the_oldest_items_are_left_out_where_the_request_asks_for_it() -> None:
    long = [{"role": "user", "content": f"question {number} {'x' * 100}"} for number in range(50)]
    client = _client("x")
    assert (await _respond(client, input=long)).json()["error"]["code"] == "context_length_exceeded"
    response = await _respond(client, input=long, instructions="Be kind.", truncation="auto", max_output_tokens=100)
    assert (response.json()["truncation"], response.json()["status"]) == ("auto", "completed")
    prompt = prompt_text(client)
    assert prompt.startswith("<system>Be kind.<user>question ")
    assert "question 49" in prompt
    assert 4000 - 100 - 200 < len(client.requests[0].prompt_ids) <= 4000 - 100


async def test_a_reply_to_calls_is_shown_to_the_model() -> None:
    client = _client(TWO_CALLS)
    output = (await _respond(client, tools=[ADD, NOW])).json()["output"]
    results = [{"type": "function_call_output", "call_id": item["call_id"], "output": "five"} for item in output]
    history = [{"role": "user", "content": "hi"}, *output, *results]
    client.streams.clear()
    assert (await _respond(client, input=history, tools=[ADD, NOW])).status_code == 200
    assert "<user>hi<assistant>" in prompt_text(client)
    assert '{"name": "plus", "arguments": {"a": 1}}' in prompt_text(client)
    assert prompt_text(client).endswith("<tool>five<tool>five<assistant>")


class Person(pydantic.BaseModel):
    name: str
    age: int


async def test_the_official_client_parses_an_answer() -> None:
    client = _client('{"name": "Ann", "age": 7}')
    async with http(make_app(client, chat_template=TOOL_TEMPLATE)) as api:
        openai = AsyncOpenAI(base_url="http://server/v1", api_key="none", http_client=api)
        response = await openai.responses.parse(model=MODEL, input="hi", text_format=Person)
        assert response.output_parsed == Person(name="Ann", age=7)
        async with openai.responses.stream(model=MODEL, input="hi", text_format=Person) as stream:
            assert (await stream.get_final_response()).output_parsed == Person(name="Ann", age=7)
    assert client.requests[0].grammar is not None


async def test_the_official_clients_types_take_everything_that_is_sent() -> None:
    client = _client(f"Let me see.\n{TWO_CALLS}")
    tools = [ADD, NOW, {"type": "custom", "name": "patch"}]
    whole = await _respond(client, tools=tools, include=["message.output_text.logprobs"], reasoning={"effort": "low"})
    response = OpenAIResponse.model_validate(whole.json(), strict=True)
    assert response.output_text == "Let me see."
    streamed = await _respond(client, tools=tools, include=["message.output_text.logprobs"], stream=True)
    reader: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(ResponseStreamEvent)
    for event in events_of(streamed.text):
        assert reader.validate_python(event).type == event["type"]
