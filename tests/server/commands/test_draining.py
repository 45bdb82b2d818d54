"""The drain before the end: for whom it waits, and for how long."""

import asyncio
import contextlib
import time

import pytest

from server.commands import draining
from server.commands.draining import drain_server
from server.context import ServerContext
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.fake_client import FakeClient, make_app, says

pytestmark = pytest.mark.fast


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    monkeypatch.setattr(draining, "_MIN_DRAIN_S", 0.0)
    monkeypatch.setattr(draining, "_POLL_S", 0.0)
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
        task = asyncio.create_task(drain_server(context, lambda: num_answers[0], 60))
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
            await drain_server(context, lambda: 1, 60)
        task = asyncio.create_task(drain_server(context, lambda: 2, 60))
        assert await _is_waiting(task)
        task.cancel()


async def test_what_does_not_finish_in_time_is_told(
    client: FakeClient, context: ServerContext, caplog: pytest.LogCaptureFixture
) -> None:
    client.num_open = 3
    await drain_server(context, lambda: 0, 0.0)
    assert "ending 3 requests that did not finish within --shutdown-timeout" in caplog.text


async def test_load_balancers_have_time_to_notice_from_the_first_refusal_on(
    context: ServerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draining, "_MIN_DRAIN_S", 0.05)
    began_s = time.monotonic()
    await drain_server(context, lambda: 0, 60)
    assert time.monotonic() - began_s >= 0.05
    task = asyncio.create_task(drain_server(context, lambda: 0, 60))  # draining already, as after POST /drain
    assert not await _is_waiting(task)
