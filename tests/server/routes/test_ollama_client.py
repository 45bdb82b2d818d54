"""Ollama's own Python client against the application behind a real HTTP server on the loopback interface."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
import uvicorn
from pydantic import BaseModel

from engine.command_io.pulling import Pulled, PullProgress
from engine.protocol import FinishReason
from server.errors import PullFailed
from server.pulling.pulls import Pulls
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.fake_client import MAX_MODEL_LEN, MODEL, FakeClient, Script, make_app, pooling_client, says
from tests.helpers.ollama import TOOL_TEMPLATE
from tests.helpers.scripted_pulls import PULLED, downloaded

ollama = pytest.importorskip("ollama")

pytestmark = pytest.mark.fast

HELLO = says("Grüße 🙂", finish=FinishReason.STOP)
MESSAGES = [{"role": "user", "content": "hi"}]


async def _fetch(model: str) -> AsyncGenerator[PullProgress | Pulled]:
    if model == "owner/full":
        raise PullFailed("the disk is full")
    yield downloaded(500)
    yield PULLED


@contextlib.asynccontextmanager
async def _served(script: Script | FakeClient, template: str | None = None) -> AsyncIterator[Any]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        engine = script if isinstance(script, FakeClient) else FakeClient(script)
        app = make_app(engine, api_key=("key",), chat_template=template)
        app.state.context.pulls = Pulls(["owner/*"], app.state.context.metrics, _fetch)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        serving = asyncio.create_task(server.serve([sock]))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        yield ollama.AsyncClient(host=url, headers={"authorization": "Bearer key"}, timeout=DEADLINE_S)
        server.should_exit = True
        await serving


async def test_chat_whole_and_streamed() -> None:
    async with _served(HELLO) as client:
        whole = await client.chat(MODEL, messages=MESSAGES, options={"temperature": 0}, logprobs=True)
        text, last = "", None
        async for last in await client.chat(MODEL, messages=MESSAGES, stream=True):
            text += last.message.content or ""
    assert whole.message.content == text == "Grüße 🙂"
    assert whole.logprobs is not None
    assert last is not None
    assert (last.done, last.done_reason, last.eval_count) == (True, "stop", whole.eval_count)


async def test_pull_whole_and_streamed() -> None:
    async with _served(HELLO) as client:
        assert (await client.pull("owner/a")).status == "success"
        assert [part.status async for part in await client.pull("hf.co/owner/a:Q4", stream=True)][-1] == "success"
        with pytest.raises(ollama.ResponseError, match="the disk is full"):
            [part async for part in await client.pull("owner/full", stream=True)]
        with pytest.raises(ollama.ResponseError, match="may not be fetched") as refused:
            await client.pull("other/a")
    assert refused.value.status_code == 403


async def test_generate_whole_and_streamed() -> None:
    async with _served(HELLO) as client:
        whole = await client.generate(MODEL, "hi", system="be brief", keep_alive=60)
        text = "".join(
            [part.response or "" async for part in await client.generate(MODEL, "hi", raw=True, stream=True)]
        )
        loaded = await client.generate(MODEL)
    assert whole.response == text == "Grüße 🙂"
    assert loaded.done_reason == "load"


async def test_a_python_function_is_called() -> None:
    def plus(a: int, b: int) -> int:
        """Add two numbers.

        Args:
            a: one
            b: the other
        """
        return a + b

    text = '<tool_call>\n{"name": "plus", "arguments": {"a": 1, "b": 2}}\n</tool_call>'
    async with _served(says(text, finish=FinishReason.STOP), TOOL_TEMPLATE) as client:
        answer = await client.chat(MODEL, messages=MESSAGES, tools=[plus])
        (call,) = answer.message.tool_calls or []
        result = str(plus(**call.function.arguments))
        followed = await client.chat(
            MODEL, messages=[*MESSAGES, answer.message, {"role": "tool", "tool_name": "plus", "content": result}]
        )
    assert (call.function.name, result) == ("plus", "3")
    assert followed.done


async def test_a_pydantic_schema_is_a_format() -> None:
    class Person(BaseModel):
        name: str
        age: int

    async with _served(says('{"name": "Ann", "age": 31}', finish=FinishReason.STOP)) as client:
        answer = await client.chat(MODEL, messages=MESSAGES, format=Person.model_json_schema())
    assert Person.model_validate_json(answer.message.content or "") == Person(name="Ann", age=31)


async def test_lists_and_descriptions() -> None:
    async with _served(HELLO) as client:
        (listed,) = (await client.list()).models
        (running,) = (await client.ps()).models
        shown = await client.show(MODEL)
    assert listed.model == running.model == f"{MODEL}:latest"
    assert running.context_length == MAX_MODEL_LEN
    assert shown.capabilities == ["completion", "tools"]
    assert shown.modelinfo is not None
    assert shown.details is not None


async def test_embeddings_new_and_old() -> None:
    engine = pooling_client(matryoshka=[])
    async with _served(engine) as client:
        many = await client.embed(MODEL, ["hi", "x" * 300], dimensions=2, keep_alive="5m")
        one = await client.embeddings(MODEL, "hi")
        (running,) = (await client.ps()).models
    assert [list(vector) for vector in many.embeddings] == [[3.0, 465.0], [200.0, 256 + 199 * ord("x")]]
    assert many.prompt_eval_count == 203
    assert (many.total_duration or 0) > 0
    assert list(one.embedding) == [3.0, 465.0, 256.0, 105.0]
    assert running.model == f"{MODEL}:latest"


async def test_errors_are_the_clients_own() -> None:
    async with _served(HELLO) as client:
        with pytest.raises(ollama.ResponseError, match="is not served here") as missing:
            await client.chat("other", messages=MESSAGES)
        with pytest.raises(ollama.ResponseError, match=r"options\.temperature is -1"):
            await client.chat(MODEL, messages=MESSAGES, options={"temperature": -1})
        with pytest.raises(ollama.ResponseError, match=r"options\.temperature is -1"):
            async for _ in await client.chat(MODEL, messages=MESSAGES, options={"temperature": -1}, stream=True):
                pass
        with pytest.raises(ollama.ResponseError, match="generates text"):
            await client.embed(MODEL, "hi")
    assert missing.value.status_code == 404
