"""The loads that compare HTTP servers, on uvicorn in this process, and the table that is made of them."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn

from benchmarks.http_server import tiny_app
from benchmarks.http_server.faults import FAULTS
from benchmarks.http_server.load import requests_per_second, streams_at_once
from benchmarks.http_server.servers import Figures, _table
from server.commands.serve.http_server import HttpServer


@asynccontextmanager
async def _serving() -> AsyncIterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        server = HttpServer(uvicorn.Config(tiny_app.app, ws="none", lifespan="off", log_config=None))
        task = asyncio.create_task(server.serve([sock]))
        try:
            yield sock.getsockname()[1]
        finally:
            server.should_exit = True
            await task


async def test_loads_count_what_comes_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_app, "EVENT_S", 0.001)
    async with _serving() as port:
        assert await requests_per_second(port, 4, 0.2) > 0
        first, last_s = await streams_at_once(port, 20)
    assert len(first) == 20
    assert 0 < first[0] <= first[-1] < last_s


@pytest.mark.parametrize(
    ("fault", "is_handled"),
    [
        ("two Content-Lengths are refused", True),
        ("a body behind `Upgrade: h2c` is read", False),
        ("the application learns that a client disconnected", True),
    ],
)
async def test_faults_tell_servers_apart(fault: str, is_handled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_app, "_left", [0])
    async with _serving() as port:
        assert await FAULTS[fault](port) is is_handled


def test_the_table_is_relative_to_ours() -> None:
    ours = Figures([2000.0, 1000.0, 3000.0], [0.010], [0.020], [1000], {"a fault": True})
    other = Figures([1000.0], [0.030], [0.040], [990], {"a fault": False})
    lines = _table({"headrace": ours, "other": other}).splitlines()
    assert lines[2] == "| whole answers a second | 1.00 | 0.50 |"
    assert lines[3] == "| first byte of a stream, median | 10 ms | 30 ms |"
    assert lines[5] == "| streams that came to their end | 1000 | 990 |"
    assert lines[6] == "| a fault | yes | no |"
    assert lines[-1] == "1.00 is 2,000 whole answers a second"
