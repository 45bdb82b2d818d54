"""ProcessClient.pool against a scripted engine process: answers, aborts, death and restart."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from engine.client.process_client import ProcessClient
from engine.errors import EngineDied, EngineStopped, EngineUnavailable
from engine.protocol import PoolingParams, PoolingRequest, PoolingTask
from tests.helpers.deadline import DEADLINE_S, until
from tests.helpers.scripted_client import scripted_client


@asynccontextmanager
async def _client() -> AsyncIterator[ProcessClient]:
    async with scripted_client("pooling") as client, asyncio.timeout(DEADLINE_S):
        yield client


def _request(name: str, first: int) -> PoolingRequest:
    params = PoolingParams(task=PoolingTask.EMBED)
    return PoolingRequest(id=name, prompt_ids=[first, 7], params=params, arrival_s=0.0)


async def test_vectors_cross_the_wire_and_idle_clients_have_nothing_open() -> None:
    async with _client() as client:
        with pytest.raises(EngineUnavailable):
            await client.pool([_request("a", 5)])
        await client.wait_ready()
        outputs = await client.pool([_request("a", 5), _request("b", 6)])
        assert [struct.unpack("<f", output.values) for output in outputs] == [(5.0,), (6.0,)]
        assert [output.shape for output in outputs] == [(1,), (1,)]
        assert client.status().num_open == 0


async def test_a_canceled_call_is_aborted_in_the_engine_and_leaves_nothing() -> None:
    async with _client() as client:
        await client.wait_ready()
        call = asyncio.create_task(client.pool([_request("a", -2)]))
        await until(lambda: client.status().num_open == 1)
        assert (client.status().num_waiting, client.status().num_waiting_tokens) == (1, 2)
        client._pooling.start(["a"])
        assert (client.status().num_waiting_tokens, client.status().num_pending_tokens) == (0, 2)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert client.status().num_open == 0
        assert len(await client.pool([_request("b", 3)])) == 1


async def test_the_next_engine_answers_what_waited_and_a_text_that_kills_two_fails() -> None:
    async with _client() as client:
        await client.wait_ready()
        bad = asyncio.create_task(client.pool([_request("bad", -1)]))
        with pytest.raises(EngineDied, match="ended twice"):
            await bad
        await until(lambda: not client.status().reason)
        assert len(await client.pool([_request("good", 3)])) == 1
        assert client.status().num_restarts == 2


async def test_a_server_that_stops_says_so_to_open_calls() -> None:
    async with _client() as client:
        await client.wait_ready()
        call = asyncio.create_task(client.pool([_request("a", -2)]))
        await until(lambda: client.status().num_open == 1)
        await client.stop()
        with pytest.raises(EngineStopped):
            await call
