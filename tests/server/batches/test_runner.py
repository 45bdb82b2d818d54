"""Which batches run, and how many of their lines: none of them holds the others up for good."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastapi import FastAPI

from server.batches.answers import LineAnswer
from server.batches.job import Sleep
from server.batches.runner import BatchRunner, Run
from server.context import ServerContext
from server.keys.caller import Caller
from tests.helpers.batches import CHAT, chat_line, jsonl
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.fake_client import FakeClient, http, make_app, says

pytestmark = pytest.mark.fast


async def _create(app: FastAPI, num_lines: int = 1, headers: dict[str, str] | None = None) -> str:
    """A batch's id."""
    async with http(app) as client:
        client.headers.update(headers or {})
        lines = jsonl(chat_line(f"{i}") for i in range(num_lines))
        file = (await client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a", lines)})).json()
        body = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
        made: str = (await client.post("/v1/batches", json=body)).json()["id"]
        return made


async def _no_time(_seconds: float) -> None:
    await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def _runs(app: FastAPI, run: Run) -> AsyncIterator[BatchRunner]:
    """Within it batches run, whose lines `run` answers."""
    runner = BatchRunner(app.state.context, run, sleep=_no_time)
    running = asyncio.create_task(runner.run())
    try:
        yield runner
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not is_so():
            await asyncio.sleep(0.001)


async def test_lines_that_wait_are_no_reason_to_begin_all_others() -> None:
    """They give their places back meanwhile, and each would let another line in."""
    num_running, most, num_waits = 0, 0, 0

    async def waits(_context: ServerContext, _caller: Caller, _endpoint: str, _body: Any, sleep: Sleep) -> LineAnswer:
        nonlocal num_running, most, num_waits
        num_running += 1
        most = max(most, num_running)
        while True:
            await sleep(1.0)
            num_waits += 1

    engine = FakeClient(says(""))
    app = make_app(engine)
    await _create(app, 1000)
    async with _runs(app, waits):
        await _until(lambda: num_waits >= 5000)
    assert most == 3 * engine.info.max_num_seqs
