"""The official Python client against the application behind a real HTTP server on the loopback interface."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import openai
import pytest
import uvicorn

from engine.errors import EngineDied
from engine.protocol import EngineRequest, FinishReason, RequestOutput
from tests.helpers.deadline import DEADLINE_S, until
from tests.helpers.fake_client import FINGERPRINT, MODEL, FakeClient, Script, Step, make_app, pooling_client, says

pytestmark = pytest.mark.fast

HELLO = says("Grüße 🙂", finish=FinishReason.STOP)


@contextlib.asynccontextmanager
async def _served(script: Script | FakeClient) -> AsyncIterator[tuple[openai.AsyncOpenAI, FakeClient]]:
    """The official client of a server that plays `script`."""
    engine = script if isinstance(script, FakeClient) else FakeClient(script)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        config = uvicorn.Config(make_app(engine, api_key=("key",)), log_config=None, lifespan="off")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([sock]))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="key", max_retries=0, timeout=DEADLINE_S) as client:
            yield client, engine
        server.should_exit = True
        await serving


async def test_chat_whole_and_streamed() -> None:
    async with _served(HELLO) as (client, _):
        chat = client.chat.completions
        whole = await chat.create(model=MODEL, messages=[{"role": "user", "content": "hi"}], logprobs=True)
        assert whole.choices[0].message.content == "Grüße 🙂"
        assert whole.choices[0].logprobs is not None
        assert whole.usage is not None
        assert whole._request_id is not None
        assert whole.system_fingerprint == FINGERPRINT
        text, usage, finish = "", None, None
        stream = await chat.create(
            model=MODEL,
            messages=[{"role": "user", "content": "hi"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        async for chunk in stream:
            usage = chunk.usage or usage
            assert chunk.system_fingerprint == FINGERPRINT
            for choice in chunk.choices:
                text += choice.delta.content or ""
                finish = choice.finish_reason or finish
        assert (text, finish) == ("Grüße 🙂", "stop")
        assert usage == whole.usage


async def test_completions_whole_and_streamed() -> None:
    async with _served(HELLO) as (client, _):
        whole = await client.completions.create(model=MODEL, prompt=["a", "b"], logprobs=1, echo=True)
        assert [choice.text for choice in whole.choices] == ["aGrüße 🙂", "bGrüße 🙂"]
        assert whole.system_fingerprint == FINGERPRINT
        text = ""
        async for chunk in await client.completions.create(model=MODEL, prompt=[97], stream=True):
            assert chunk.system_fingerprint == FINGERPRINT
            text += chunk.choices[0].text
        assert text == "Grüße 🙂"


async def test_embeddings_as_base64_and_as_numbers() -> None:
    async with _served(pooling_client()) as (client, engine):
        create = client.embeddings.create
        packed = await create(model=MODEL, input=["hi", "a"])  # the client asks for base64 by itself
        plain = await create(model=MODEL, input=["hi", "a"], encoding_format="float", user="ann")
        ids = await create(model=MODEL, input=[[104, 105], [97]])
        with pytest.raises(openai.BadRequestError) as long:
            await create(model=MODEL, input=["a", "b" * 300])
    assert [item.embedding for item in packed.data] == [item.embedding for item in plain.data]
    assert packed.data[0].embedding == [3.0, 465.0, 256.0, 105.0]
    assert (packed.usage.prompt_tokens, ids.usage.total_tokens) == (5, 3)
    assert (long.value.param, long.value.code) == ("input[1]", "context_length_exceeded")
    assert len(engine.pool_requests) == 6


async def test_models_and_errors() -> None:
    async with _served(HELLO) as (client, _):
        assert [model.id async for model in client.models.list()] == [MODEL]
        assert (await client.models.retrieve(MODEL)).id == MODEL
        with pytest.raises(openai.NotFoundError) as missing:
            await client.completions.create(model="nobody", prompt="a")
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as wrong:
            await client.completions.create(model=MODEL, prompt="a", temperature=-1)
        assert wrong.value.param == "temperature"
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="other").models.list()


async def test_a_stream_that_breaks_raises() -> None:
    def script(request: EngineRequest) -> list[Step]:
        return [RequestOutput(id=request.id, new_ids=[72]), EngineDied("the engine ended")]

    async with _served(script) as (client, _):
        stream = await client.completions.create(model=MODEL, prompt="a", stream=True)
        with pytest.raises(openai.APIError, match="the engine ended"):
            async for _ in stream:
                pass


async def test_closing_a_stream_frees_its_place_within_a_second() -> None:
    def script(request: EngineRequest) -> list[Step]:
        return [RequestOutput(id=request.id, new_ids=[72]), None]

    async with _served(script) as (client, engine):
        stream = await client.completions.create(model=MODEL, prompt="a", stream=True)
        assert (await anext(aiter(stream))).choices[0].text == "H"
        assert engine.num_open == 1
        await stream.close()
        await until(lambda: engine.num_open == 0)


async def test_giving_up_on_a_whole_answer_frees_its_place_within_a_second() -> None:
    async with _served(lambda _: [None]) as (client, engine):
        asking = asyncio.create_task(client.completions.create(model=MODEL, prompt="a"))
        await until(lambda: engine.num_open == 1)
        asking.cancel()
        await until(lambda: engine.num_open == 0)
