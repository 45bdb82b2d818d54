"""A request that waits too long for its turn gets 503, as long as there is a status to give."""

import asyncio
import threading
from typing import Any

import pytest

from engine.protocol import EngineRequest, FinishReason, RequestOutput
from server.config.server import ServerConfig
from server.http.sse import status_wait_s
from server.text.workers import MAX_SHORT
from tests.helpers.asgi import RawRequest
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.fake_client import FakeClient, Step, http, make_app, says
from tests.helpers.sse import events

pytestmark = pytest.mark.fast

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
CHAT_URL = "/v1/chat/completions"
BODIES: list[tuple[str, dict[str, Any]]] = [
    (CHAT_URL, CHAT),
    ("/v1/completions", {"prompt": ["a", "b"], "n": 2}),
    ("/v1/messages", {**CHAT, "max_tokens": 5}),
    ("/v1/responses", {"input": "hi"}),
    ("/api/generate", {"model": "org/tiny", "prompt": "hi"}),
]
SEARCH = ("/v1/completions", {"prompt": "a", "use_beam_search": True, "n": 2, "temperature": 0})


def _never_begins(request: EngineRequest) -> list[Step]:
    if request.start_by_s is None:
        return [None]
    return [RequestOutput(id=request.id, finish_reason=FinishReason.QUEUE_TIMEOUT)]


@pytest.mark.parametrize(
    ("path", "body"),
    [(path, {**body, "stream": stream}) for path, body in BODIES for stream in (False, True)] + [SEARCH],
)
async def test_it_is_503_with_the_time_to_come_back(path: str, body: dict[str, Any]) -> None:
    client = FakeClient(_never_begins)
    async with http(make_app(client, queue_timeout=20.0)) as api:
        response = await api.post(path, json=body)
        metrics = (await api.get("/metrics")).text
    assert response.status_code == 503
    assert response.headers["retry-after"] == "3"
    assert "the request did not begin within 20 s (--queue-timeout)" in response.text
    assert client.num_open == 0
    assert 'headrace_requests_shed_total{model_name="org/tiny",reason="queue_timeout"} 1.0' in metrics
    assert 'code="queue_timeout",outcome="refused"' in metrics
    if "use_beam_search" not in body:
        assert 'headrace_queue_time_seconds_count{model_name="org/tiny",outcome="queue_timeout"} 1.0' in metrics


@pytest.mark.parametrize(
    ("num_running", "num_waiting", "text"),
    [(8, 3, "8 requests run and 3 wait;"), (1, 0, "1 request runs and no other waits;"), (0, 0, "; try again in 3 s")],
)
async def test_it_says_what_was_before_it(num_running: int, num_waiting: int, text: str) -> None:
    client = FakeClient(_never_begins)
    client.num_running, client.num_waiting = num_running, num_waiting
    async with http(make_app(client, queue_timeout=20.0)) as api:
        message = (await api.post(CHAT_URL, json=CHAT)).json()["error"]["message"]
    assert text in message
    assert "0 requests" not in message


async def test_a_stream_whose_status_is_sent_gets_an_event() -> None:
    is_over = asyncio.Event()
    client = FakeClient(lambda request: [is_over, *_never_begins(request)])
    app = make_app(client, queue_timeout=100.0, sse_ping_interval=0.01)
    async with RawRequest(app, CHAT_URL, {**CHAT, "stream": True}) as request:
        await request.until(lambda: b": ping" in request.body)
        is_over.set()
        await request.ended()
    *_, error, end = events(request.body.decode().replace(": ping\n\n", ""))
    assert (request.status, error["error"]["code"], end) == (200, "queue_timeout", "[DONE]")


async def test_a_status_waits_as_long_as_it_may_be_the_one_of_the_queue() -> None:
    app = make_app(FakeClient(_never_begins), queue_timeout=20.0, sse_ping_interval=0.1)
    async with http(app) as api:
        assert (await api.post(CHAT_URL, json={**CHAT, "stream": True})).status_code == 503
    assert status_wait_s(ServerConfig()) == 15.0
    assert status_wait_s(ServerConfig(queue_timeout=5.0)) == 15.0
    assert status_wait_s(ServerConfig(queue_timeout=30.0)) == 31.0
    assert status_wait_s(ServerConfig(queue_timeout=300.0)) == 15.0


@pytest.mark.parametrize(
    ("options", "fields", "seconds"),
    [({}, {}, None), ({"queue_timeout": 7.0}, {}, 7.0), ({"queue_timeout": 7.0}, {"service_tier": "flex"}, None)],
)
async def test_the_engine_is_told_the_limit_of_the_first_choice(
    options: dict[str, Any], fields: dict[str, Any], seconds: float | None
) -> None:
    client = FakeClient(says("x"))
    async with http(make_app(client, **options)) as api:
        assert (await api.post(CHAT_URL, json={**CHAT, "n": 2, **fields})).status_code == 200
    first, second = client.requests
    assert first.start_by_s == (None if seconds is None else first.arrival_s + seconds)
    assert second.start_by_s is None  # once its sibling has begun it may wait


async def test_a_prompt_is_not_made_of_a_request_whose_time_is_over() -> None:
    client = FakeClient(says("x"))
    app = make_app(client)
    begun, busy = threading.Semaphore(0), threading.Event()

    def work() -> None:
        begun.release()
        busy.wait(DEADLINE_S)

    async with http(app) as api:
        await api.post(CHAT_URL, json=CHAT)
        workers = app.state.context.workers
        works = [asyncio.create_task(workers.run(work, size=0)) for _ in range(MAX_SHORT)]
        for _ in works:
            assert await asyncio.to_thread(begun.acquire, timeout=DEADLINE_S)
        response = await api.post(CHAT_URL, json={**CHAT, "timeout": 0.01})
        assert workers._short._work_queue.qsize() == 1  # it is canceled, and a thread will drop it
        busy.set()
        await asyncio.gather(*works)
    assert (response.status_code, response.json()["error"]["code"]) == (504, "timeout")
    assert response.headers["x-should-retry"] == "false"
    assert len(client.requests) == 1
