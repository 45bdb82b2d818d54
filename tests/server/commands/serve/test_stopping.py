"""The drain before the end: for whom it waits, and for how long."""

import asyncio
import contextlib
import logging
import time

import pytest

from server.commands.serve import stopping
from server.commands.serve.stopping import drain_server
from server.context import ServerContext
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.fake_client import FakeClient, http, make_app, says

pytestmark = pytest.mark.fast


def _nobody() -> int:
    return 0


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    monkeypatch.setattr(stopping, "_NOTICE_S", 0.0)
    monkeypatch.setattr(stopping, "_POLL_S", 0.0)
    return FakeClient(says("x"))


@pytest.fixture
def context(client: FakeClient) -> ServerContext:
    context: ServerContext = make_app(client).state.context
    return context


async def _is_waiting(task: "asyncio.Task[None]") -> bool:
    for _ in range(5):
        await asyncio.sleep(0)
    return not task.done()


async def test_it_waits_for_the_engine_for_what_is_prepared_and_for_what_is_read(
    client: FakeClient, context: ServerContext
) -> None:
    num_answers = [1]
    client.num_open = 1
    with context.models.default.preparing():
        task = asyncio.create_task(drain_server(context, lambda: num_answers[0], _nobody, 60))
        assert await _is_waiting(task)
        assert context.drain.is_stopping
        client.num_open = 0
        assert await _is_waiting(task)
    assert await _is_waiting(task)
    num_answers[0] = 0
    async with asyncio.timeout(DEADLINE_S):
        await task


async def test_a_dashboard_that_is_open_is_not_waited_for(context: ServerContext) -> None:
    async with contextlib.aclosing(context.live.watch()) as frames:
        await anext(frames)
        async with asyncio.timeout(DEADLINE_S):
            await drain_server(context, lambda: 1, _nobody, 60)
        task = asyncio.create_task(drain_server(context, lambda: 2, _nobody, 60))
        assert await _is_waiting(task)
        task.cancel()


async def test_what_does_not_finish_in_time_is_told(
    client: FakeClient, context: ServerContext, caplog: pytest.LogCaptureFixture
) -> None:
    client.num_open = 3
    await drain_server(context, lambda: 0, _nobody, 0.0)
    assert "ending 3 requests that did not finish within --shutdown-timeout" in caplog.text


async def test_those_who_ask_have_time_to_notice_from_the_first_refusal_on(
    context: ServerContext, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(stopping, "_NOTICE_S", 0.05)
    context.drain.checked_s = started_s = time.monotonic()
    await drain_server(context, lambda: 0, _nobody, 60)
    assert time.monotonic() - started_s >= 0.05
    assert "s; clients and load balancers have " in caplog.text
    task = asyncio.create_task(drain_server(context, lambda: 0, _nobody, 60))  # draining already, as after POST /drain
    assert not await _is_waiting(task)


@pytest.mark.parametrize(("asked_ago_s", "num_connections"), [(1.0, 0), (None, 1), (1000.0, 1)])
async def test_an_idle_server_waits_for_those_who_may_send_requests(
    context: ServerContext, monkeypatch: pytest.MonkeyPatch, asked_ago_s: float | None, num_connections: int
) -> None:
    monkeypatch.setattr(stopping, "_NOTICE_S", 1000.0)
    if asked_ago_s is not None:
        context.drain.checked_s = time.monotonic() - asked_ago_s
    task = asyncio.create_task(drain_server(context, lambda: 0, lambda: num_connections, 60))
    assert await _is_waiting(task)
    task.cancel()


@pytest.mark.parametrize("asked_ago_s", [None, 1000.0])
async def test_an_idle_server_that_nobody_watches_ends_at_once(
    context: ServerContext, monkeypatch: pytest.MonkeyPatch, asked_ago_s: float | None
) -> None:
    monkeypatch.setattr(stopping, "_NOTICE_S", 1000.0)
    if asked_ago_s is not None:
        context.drain.checked_s = time.monotonic() - asked_ago_s
    task = asyncio.create_task(drain_server(context, lambda: 0, _nobody, 60))
    assert not await _is_waiting(task)


@pytest.mark.parametrize("path", ["/ready", "/health"])
async def test_who_asks_for_a_probe_watches(client: FakeClient, path: str) -> None:
    app = make_app(client)
    async with http(app) as api:
        await api.get("/live")
        await api.get("/v1/models")
        assert not app.state.context.drain.is_watched(time.monotonic())
        await api.get(path)
    assert app.state.context.drain.is_watched(time.monotonic())
