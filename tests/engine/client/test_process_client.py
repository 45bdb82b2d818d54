"""ProcessClient against a scripted engine process: delivery, aborts, death and restart."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from engine.client.interface import EngineState, RequestStream
from engine.client.process_client import EngineCallbacks, ProcessClient
from engine.config import EngineConfig
from engine.errors import EngineDied, EngineStopped, EngineUnavailable, OptionError, QueueFull, StartupError
from engine.protocol import AbortReason, EngineRequest, FinishReason, RequestOutput, SamplingParams

DEADLINE_S = 20.0


@asynccontextmanager
async def _client(mode: str = "serving", **options: object) -> AsyncIterator[ProcessClient]:
    command = (sys.executable, "-m", "tests.helpers.scripted_engine", mode)
    client = ProcessClient(EngineConfig(), **{"max_num_waiting": 4, "command": command, **options})  # type: ignore[arg-type]
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


def _request(name: str, *prompt: int) -> EngineRequest:
    return EngineRequest(id=name, prompt_ids=list(prompt), sampling=SamplingParams(max_tokens=9), arrival_s=0.0)


async def _read_all(stream: RequestStream) -> list[RequestOutput]:
    async with asyncio.timeout(DEADLINE_S):
        return [output async for output in stream]


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


async def test_outputs_arrive_in_order_and_end_once() -> None:
    async with _client() as client:
        await client.wait_ready()
        assert (client.status().stage, client.status().reason) == (None, "")
        outputs = await _read_all(client.submit(_request("a", 5)))
        assert [token_id for output in outputs for token_id in output.new_ids] == [0, 1, 2, 3, 4]
        assert [o.finish_reason for o in outputs if o.finish_reason] == [FinishReason.LENGTH]
        assert client.status().num_open == 0


async def test_outputs_merge_while_the_reader_is_slow() -> None:
    async with _client() as client:
        await client.wait_ready()
        stream = client.submit(_request("a", 50))
        await _until(lambda: client.status().num_open == 0)
        outputs = await _read_all(stream)
        assert len(outputs) == 1
        assert outputs[0].new_ids == list(range(50))


async def test_abort_drops_and_counts_what_was_not_read() -> None:
    discarded: list[int] = []
    async with _client(callbacks=EngineCallbacks(on_discarded=discarded.append)) as client:
        await client.wait_ready()
        stream = client.submit(_request("a", -2))
        first = await anext(aiter(stream))
        assert first.new_ids == [1, 2]
        stream.abort(AbortReason.CLIENT_GONE)
        stream.abort(AbortReason.CLIENT_GONE)
        await _until(lambda: client.status().num_open == 0)
        assert discarded == [1]


async def test_a_dead_engine_breaks_every_stream_and_is_started_again() -> None:
    restarts: list[bool] = []
    async with _client(callbacks=EngineCallbacks(on_restart=lambda: restarts.append(True))) as client:
        await client.wait_ready()
        waiting = client.submit(_request("a", -2))
        client.submit(_request("b", -1))
        with pytest.raises(EngineDied):
            await _read_all(waiting)
        await _until(lambda: client.status().state is EngineState.READY)
        assert (await _read_all(client.submit(_request("c", 1))))[0].new_ids == [0]
        assert len(restarts) == client.status().num_restarts == 1


async def test_a_stop_tells_open_streams_that_it_was_one() -> None:
    async with _client() as client:
        await client.wait_ready()
        stream = client.submit(_request("a", -2))
    with pytest.raises(EngineStopped, match="the server stopped"):
        await _read_all(stream)


async def test_loading_tells_its_stage() -> None:
    async with _client("loading") as client:
        await _until(lambda: client.status().stage is not None)
        status = client.status()
        assert (status.stage, status.progress) == ("load weights", 0.25)
        assert status.reason == "the model is being loaded: load weights, 25 %"


async def test_a_stop_while_loading_ends_the_compiler_too() -> None:
    async with _client("compiling") as client:
        await _until(lambda: (client.status().stage or "").isdecimal())
        compiler = Path(f"/proc/{client.status().stage}/stat")
        assert compiler.exists()
    await _until(lambda: not compiler.exists() or ") Z " in compiler.read_text())  # Z: nobody has waited for it


async def test_restarts_are_bounded() -> None:
    async with _client() as client:
        await client.wait_ready()
        for attempt in range(4):
            await _until(lambda: client.status().state is EngineState.READY)
            client.submit(_request(str(attempt), -1))
            await _until(lambda: client.status().state is not EngineState.READY)
        async with asyncio.timeout(DEADLINE_S):
            reason = await client.wait_dead()
        assert "exit status 3" in reason
        with pytest.raises(EngineUnavailable):
            client.submit(_request("late", 1))


async def test_an_engine_that_cannot_start_says_why() -> None:
    async with _client("failing") as client:
        with pytest.raises(StartupError, match="no such model"):
            async with asyncio.timeout(DEADLINE_S):
                await client.wait_ready()
        assert client.status().state is EngineState.DEAD


async def test_an_option_that_the_engine_refuses_is_told_apart() -> None:
    """The command line exits with another status for it."""
    async with _client("refusing") as client:
        with pytest.raises(OptionError, match="no such option"):
            async with asyncio.timeout(DEADLINE_S):
                await client.wait_ready()


async def test_requests_are_refused_before_ready() -> None:
    async with _client() as client:
        with pytest.raises(EngineUnavailable, match="started"):
            client.submit(_request("a", 1))
        await client.wait_ready()


async def test_one_request_may_fill_all_places_and_the_queue() -> None:
    async with _client(max_num_waiting=3) as client:
        await client.wait_ready()
        num_choices = client.info.max_num_seqs + 3
        client.check_capacity(num_choices)
        with pytest.raises(QueueFull):
            client.check_capacity(num_choices + 1)
        for index in range(num_choices):
            client.submit(_request(str(index), -2))


async def test_a_full_queue_refuses_at_admission() -> None:
    async with _client(max_num_waiting=1) as client:
        await client.wait_ready()
        for name in ("a", "b"):  # fills the two places of max_num_seqs
            client.submit(_request(name, -2))
        client.check_capacity(1)
        with pytest.raises(QueueFull):
            client.check_capacity(2)
        client.submit(_request("c", -2))
        with pytest.raises(QueueFull):
            client.submit(_request("d", -2))
