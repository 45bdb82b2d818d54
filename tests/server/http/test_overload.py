"""Far more clients than the server can serve, over real connections: they see 200 or 429 and nothing else, and leave
nothing behind."""

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.raw_http import Answer, RawConnection
from engine.client.process_client import ProcessClient
from engine.config import EngineConfig
from server.text.workers import MAX_LONG, MAX_SHORT
from tests.helpers.deadline import DEADLINE_S, until
from tests.helpers.http_serving import Served, serving
from tests.helpers.threads import NewThreads

NUM_PLACES, NUM_WAITING, NUM_CLIENTS, NUM_LEAVING = 8, 16, 1000, 300
COMPLETION: dict[str, Any] = {"prompt": "hi", "max_tokens": 4}
COMPLETIONS = "/v1/completions"


@asynccontextmanager
async def _serving() -> AsyncIterator[tuple[Served, ProcessClient]]:
    """A server in this process, with an engine that computes nothing."""
    client = ProcessClient(
        EngineConfig(),
        max_num_waiting=NUM_WAITING,
        command=(sys.executable, "-m", "tests.helpers.queueing_engine", str(NUM_PLACES), "0.01"),
    )
    await client.start()
    try:
        await client.wait_ready()
        async with serving(
            client, max_num_waiting=NUM_WAITING, log_requests=False, http_header_timeout=DEADLINE_S
        ) as served:
            yield served, client
            served.context.workers.close()
    finally:
        await client.stop()


def _url(served: Served) -> str:
    return f"http://127.0.0.1:{served.port}"


async def _ask(served: Served, body: dict[str, Any]) -> Answer:
    async with RawConnection(_url(served), timeout_s=DEADLINE_S) as connection:
        return await connection.post(COMPLETIONS, body)


async def test_a_thousand_clients_at_once_see_answers_or_the_time_to_come_back() -> None:
    async with _serving() as (served, client):
        bodies = [{**COMPLETION, "stream": number % 2 == 0} for number in range(NUM_CLIENTS)]
        answers = await asyncio.gather(*(_ask(served, body) for body in bodies))
        await until(lambda: client.status().num_open == served.context.models.num_unfinished == 0)
    statuses = Counter(answer.status for answer in answers)
    assert set(statuses) == {200, 429}
    assert statuses[200] >= NUM_PLACES + NUM_WAITING
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers if answer.status == 429)


async def test_a_storm_of_clients_that_leave_leaves_nothing_behind() -> None:
    async with _serving() as (served, client):
        await _ask(served, COMPLETION)
        new_threads, num_files = NewThreads(), len(os.listdir("/proc/self/fd"))

        async def leave(number: int) -> None:
            async with RawConnection(_url(served)) as connection:
                connection.send(COMPLETIONS, {"prompt": "hello " * 30, "max_tokens": 100, "stream": number % 2 == 0})
                await asyncio.sleep(0.001 * (number % 50))

        for first in range(0, NUM_LEAVING, 100):
            await asyncio.gather(*(leave(number) for number in range(first, first + 100)))
        await until(lambda: not client.status().num_open and len(os.listdir("/proc/self/fd")) <= num_files, 0.02)
        assert (await _ask(served, COMPLETION)).status == 200
        assert len(new_threads.names()) <= MAX_SHORT + MAX_LONG
        assert served.context.models.num_unfinished == 0
