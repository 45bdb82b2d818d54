"""A client that goes away ends its request, whatever it was waiting for."""

import asyncio
from typing import Any

import pytest

from engine.protocol import AbortReason, EngineRequest, RequestOutput
from tests.helpers.asgi import RawRequest
from tests.helpers.fake_client import FakeClient, Step, http, make_app

pytestmark = pytest.mark.fast

CHAT = {"messages": [{"role": "user", "content": "hi"}]}


def _hangs(request: EngineRequest) -> list[Step]:
    """One token, and then none until the request is aborted."""
    return [RequestOutput(id=request.id, new_ids=[72]), None]


def _queued(_request: EngineRequest) -> list[Step]:
    return [None]


@pytest.mark.parametrize("script", [_hangs, _queued])
@pytest.mark.parametrize("body", [CHAT, {**CHAT, "stream": True}, {**CHAT, "n": 3}, {**CHAT, "n": 3, "stream": True}])
async def test_a_disconnect_aborts_every_choice(script: Any, body: dict[str, Any]) -> None:
    client = FakeClient(script)
    app = make_app(client)
    async with RawRequest(app, "/v1/chat/completions", body) as request:
        await request.until(lambda: len(client.streams) == body.get("n", 1))
        for _ in range(20):
            await asyncio.sleep(0)  # let it come to wait for tokens
        request.disconnect()
        await request.ended()
    assert client.num_open == 0
    assert {stream.abort_reason for stream in client.streams} == {AbortReason.CLIENT_GONE}
    async with http(app) as api:
        metrics = (await api.get("/metrics")).text
    assert f'finished_reason="abort",model_name="org/tiny"}} {body.get("n", 1)}.0' in metrics
    assert 'route="/v1/chat/completions",status="499"' in metrics


async def test_a_stream_is_ended_between_its_tokens() -> None:
    client = FakeClient(_hangs)
    async with RawRequest(make_app(client), "/v1/chat/completions", {**CHAT, "stream": True}) as request:
        await request.until(lambda: b'"content":"H"' in request.body)
        assert client.num_open == 1
        request.disconnect()
        await request.ended()
        assert client.num_open == 0
        assert b"[DONE]" not in request.body


async def test_a_canceled_handler_ends_its_request() -> None:
    client = FakeClient(_hangs)
    async with RawRequest(make_app(client), "/v1/chat/completions", {**CHAT, "stream": True}) as request:
        await request.until(lambda: b'"content":"H"' in request.body)
    assert client.num_open == 0


async def test_silence_is_filled_with_comments() -> None:
    client = FakeClient(_hangs)
    app = make_app(client, sse_ping_interval=0.01)
    async with RawRequest(app, "/v1/chat/completions", {**CHAT, "stream": True}) as request:
        await request.until(lambda: request.body.count(b": ping\n\n") >= 3)
        assert request.status == 200


async def test_a_wait_for_the_first_token_is_filled_with_comments_too() -> None:
    client = FakeClient(lambda _: [None])
    app = make_app(client, sse_ping_interval=0.01)
    async with RawRequest(app, "/v1/chat/completions", {**CHAT, "stream": True}) as request:
        await request.until(lambda: request.body.count(b": ping\n\n") >= 3)
        assert request.status == 200
        assert b"data:" not in request.body
        request.disconnect()
        await request.ended()
        assert client.num_open == 0


async def test_a_client_gone_while_it_sends_its_body_is_not_answered() -> None:
    client = FakeClient(_hangs)
    request = RawRequest(make_app(client), "/v1/chat/completions", CHAT)
    request.truncate_body()
    async with request:
        request.disconnect()
        await request.ended()
        assert request.sent == []
    assert client.streams == []
