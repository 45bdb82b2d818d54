"""Anthropic's official Python client against the application behind a real HTTP server on the loopback interface."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pydantic
import pytest
import uvicorn

from engine.errors import EngineDied
from engine.protocol import EngineRequest, FinishReason, RequestOutput
from tests.helpers.chat_templates import TOOL_TEMPLATE
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.fake_client import MODEL, FakeClient, Script, Step, engine_info, make_app, says

anthropic = pytest.importorskip("anthropic")
pytestmark = pytest.mark.fast

HELLO = says("Grüße 🙂", finish=FinishReason.STOP)
MESSAGES: Any = [{"role": "user", "content": "hi"}]
ASK: dict[str, Any] = {"model": MODEL, "max_tokens": 500, "messages": MESSAGES}
PLUS: Any = {
    "name": "plus",
    "description": "Adds one.",
    "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
}
CALL = 'Let me see.\n<tool_call>\n{"name": "plus", "arguments": {"a": 41}}\n</tool_call>'
THINKING = (
    "{% for m in messages %}<{{ m.role }}>{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>"
    "{% endif %}{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant><think>{% endif %}"
)


@contextlib.asynccontextmanager
async def _served(script: Script, template: str | None = None) -> AsyncIterator[tuple[Any, FakeClient]]:
    """The official client of a server that plays `script`."""
    engine = FakeClient(script, engine_info(max_model_len=4000))
    with socket.create_server(("127.0.0.1", 0)) as sock:
        app = make_app(engine, api_key=("key",), chat_template=template)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        serving = asyncio.create_task(server.serve([sock]))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        async with anthropic.AsyncAnthropic(base_url=url, api_key="key", max_retries=0, timeout=DEADLINE_S) as client:
            yield client, engine
        server.should_exit = True
        await serving


async def test_an_answer_whole_and_streamed() -> None:
    async with _served(HELLO) as (client, _):
        whole = await client.messages.create(**ASK)
        assert whole.content[0].text == "Grüße 🙂"
        assert whole.stop_reason == "end_turn"
        assert whole._request_id.startswith("req_")
        async with client.messages.stream(**ASK) as stream:
            text = "".join([piece async for piece in stream.text_stream])
            final = await stream.get_final_message()
        assert text == "Grüße 🙂"
        assert final.usage == whole.usage
        assert (final.content[0].text, final.stop_reason) == (text, whole.stop_reason)
        counted = await client.messages.count_tokens(model=MODEL, messages=MESSAGES)
        assert counted.input_tokens == whole.usage.input_tokens + whole.usage.cache_read_input_tokens


async def test_thoughts_go_round() -> None:
    async with _served(says("hmm</think>Yes.", finish=FinishReason.STOP), THINKING) as (client, engine):
        async with client.messages.stream(**ASK) as stream:
            message = await stream.get_final_message()
        assert (message.content[0].thinking, message.content[1].text) == ("hmm", "Yes.")
        history = [*MESSAGES, {"role": "assistant", "content": message.content}, *MESSAGES]
        await client.messages.create(**{**ASK, "messages": history})
        assert b"<think>hmm</think>Yes." in bytes(token for token in engine.requests[1].prompt_ids if token < 256)


async def test_a_tool_goes_round_by_the_clients_runner() -> None:
    def script(request: EngineRequest) -> list[Step]:
        has_result = b"<tool>42" in bytes(token for token in request.prompt_ids if token < 256)
        return says("It is 42." if has_result else CALL, finish=FinishReason.STOP)(request)

    @anthropic.beta_async_tool
    async def plus(a: int) -> str:
        """Adds one."""
        return str(a + 1)

    async with _served(script, TOOL_TEMPLATE) as (client, engine):
        message = await client.beta.messages.tool_runner(**ASK, tools=[plus]).until_done()
        assert message.content[0].text == "It is 42."
        assert len(engine.requests) == 2


async def test_a_streamed_calls_input_is_parsed() -> None:
    async with _served(says(CALL, finish=FinishReason.STOP), TOOL_TEMPLATE) as (client, _):
        async with client.messages.stream(**ASK, tools=[PLUS]) as stream:
            message = await stream.get_final_message()
        assert message.stop_reason == "tool_use"
        assert (message.content[1].name, message.content[1].input) == ("plus", {"a": 41})


async def test_an_answer_is_parsed_as_a_pydantic_model() -> None:
    class Person(pydantic.BaseModel):
        name: str

    async with _served(says('{"name": "Ann"}', finish=FinishReason.STOP)) as (client, engine):
        message = await client.messages.parse(**ASK, output_format=Person)
        assert message.parsed_output == Person(name="Ann")
        assert "name" in (engine.requests[0].grammar or "")


async def test_models_and_errors() -> None:
    async with _served(HELLO) as (client, engine):
        assert [model.id async for model in client.models.list()] == [MODEL]
        assert (await client.models.retrieve(MODEL)).display_name == MODEL
        with pytest.raises(anthropic.NotFoundError) as missing:
            await client.messages.create(**{**ASK, "model": "claude"})
        assert missing.value.body["error"]["type"] == "not_found_error"
        assert missing.value.request_id is not None
        with pytest.raises(anthropic.BadRequestError, match="temperature"):
            await client.messages.create(**ASK, extra_body={"temperature": -1})
        with pytest.raises(anthropic.AuthenticationError):
            await client.with_options(api_key="other").messages.create(**ASK)
        engine.capacity = 0
        with pytest.raises(anthropic.RateLimitError):
            await client.messages.create(**ASK)


async def test_a_stream_that_breaks_raises() -> None:
    def script(request: EngineRequest) -> list[Step]:
        return [RequestOutput(id=request.id, new_ids=[72]), EngineDied("the engine ended")]

    async with _served(script) as (client, _):
        stream = await client.messages.create(**ASK, stream=True)
        with pytest.raises(anthropic.APIStatusError, match="the engine ended"):
            async for _event in stream:
                pass
