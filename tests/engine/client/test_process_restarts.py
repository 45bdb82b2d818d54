"""ProcessClient whose scripted engine process ends: it is started again, and streams go on."""

import asyncio
import logging
import os
import signal
import time
from pathlib import Path

import msgspec
import pytest

from engine.client.interface import EngineCallbacks, EngineEnd, EngineState, RestartReason
from engine.errors import EngineDied, EngineStopped, EngineUnavailable
from engine.protocol import AbortReason, EngineInfo, FinishReason, SamplingParams
from engine.protocol.sampling_params import MirostatParams
from tests.helpers.deadline import DEADLINE_S, until, wait_until
from tests.helpers.scripted_client import read_all, scripted_client, scripted_pid, scripted_request


async def test_a_dead_engine_is_started_again_and_goes_on_with_its_streams() -> None:
    restarts: list[EngineEnd] = []
    async with scripted_client(callbacks=EngineCallbacks(on_restart=restarts.append)) as client:
        await client.wait_ready()
        outputs = await read_all(client.submit(scripted_request("a", -8, 3)))
        assert [token_id for output in outputs for token_id in output.new_ids] == [0, 1, 2]
        assert outputs[-1].finish_reason is FinishReason.LENGTH
        await until(lambda: client.status().state is EngineState.READY)
        assert (await read_all(client.submit(scripted_request("c", 1))))[0].new_ids == [0]
        (end,) = restarts
        assert (end.reason, end.num_continued, end.num_failed) == (RestartReason.CRASH, 1, 0)
        assert client.status().num_restarts == 1


async def test_requests_that_come_between_two_engines_wait_for_the_next_one() -> None:
    async with scripted_client() as client:
        await client.wait_ready()
        os.kill(scripted_pid(), signal.SIGKILL)
        await until(lambda: client.status().is_restarting)
        client.check_capacity(1)
        stream = client.submit(scripted_request("late", 1))
        hurried = client.submit(msgspec.structs.replace(scripted_request("hurried", 1), deadline_s=time.monotonic()))
        assert (await read_all(hurried))[-1].finish_reason is FinishReason.TIMEOUT
        assert client.status().is_restarting
        assert [token_id for output in await read_all(stream) for token_id in output.new_ids] == [0]
        assert client.status().state is EngineState.READY


async def test_each_start_and_end_of_the_engine_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    pids: list[int | None] = []
    infos: list[EngineInfo] = []
    async with scripted_client(callbacks=EngineCallbacks(on_process=pids.append, on_ready=infos.append)) as client:
        await client.wait_ready()
        first = scripted_pid()
        os.kill(first, signal.SIGKILL)
        await until(lambda: len(infos) == 2)
        assert pids == [first, None, scripted_pid()]
    assert pids[-1] is None
    told = [message.partition(":")[0] for message in caplog.messages if "engine" in message]
    assert told == [
        "the engine process ended with signal 9 (SIGKILL, often sent by the system for lack of memory)",
        "starting the engine again",
        "the engine is ready again",
    ]


async def test_a_stream_that_has_begun_is_not_what_a_third_engine_ends_of() -> None:
    async with scripted_client() as client:
        await client.wait_ready()
        begun = client.submit(scripted_request("a", -8, 9))
        with pytest.raises(EngineDied, match="ended twice"):
            await read_all(begun)
        assert client.status().num_restarts == 2


async def test_an_engine_that_sends_no_messages_is_ended_and_started_again(caplog: pytest.LogCaptureFixture) -> None:
    async with scripted_client() as client:
        await client.wait_ready()
        with pytest.raises(EngineDied, match="ended twice"):
            await read_all(client.submit(scripted_request("a", -7)))
        await until(lambda: client.status().state is EngineState.READY)
        assert client.status().num_restarts == 2
    assert "the engine's messages end" in caplog.text


async def test_a_stream_that_cannot_go_on_ends_with_the_engine() -> None:
    sampling = SamplingParams(max_tokens=9, mirostat=MirostatParams(version=2))
    async with scripted_client() as client:
        await client.wait_ready()
        begun = client.submit(msgspec.structs.replace(scripted_request("a", -8, 3), sampling=sampling))
        with pytest.raises(EngineDied, match="send it again"):
            await read_all(begun)


async def test_what_an_engine_said_before_it_ended_is_read_though_nothing_can_be_sent_any_more() -> None:
    async with scripted_client() as client:
        await client.wait_ready()
        cause = client.submit(scripted_request("cause", -3))
        engine = Path(f"/proc/{scripted_pid()}/stat")
        await asyncio.sleep(0)  # it is on its way
        wait_until(lambda: ") Z " in engine.read_text(), "it ended")  # nobody reads while the engine ends
        behind = client.submit(scripted_request("b", 1))
        with pytest.raises(EngineDied, match="ended twice"):
            await read_all(cause)
        assert "b" not in client._streams or client._streams._open["b"].num_deaths == 0
        assert (await read_all(behind))[-1].finish_reason is FinishReason.LENGTH


async def test_requests_without_output_are_run_again_but_not_the_cause() -> None:
    """The engine ends each time that it starts "cause"; those behind it never had their turn."""
    async with scripted_client() as client:
        await client.wait_ready()
        cause = client.submit(scripted_request("cause", -3))
        behind = [client.submit(scripted_request("b", 2)), client.submit(scripted_request("c", 1))]
        with pytest.raises(EngineDied, match="ended twice"):
            await read_all(cause)
        ids = [[token_id for output in await read_all(stream) for token_id in output.new_ids] for stream in behind]
        assert ids == [[0, 1], [0]]
        assert client.status().num_restarts == 2
        assert client.status().num_open == 0


async def test_a_request_that_waits_for_the_next_engine_can_be_aborted_and_runs_out_of_time(tmp_path: Path) -> None:
    async with scripted_client(f"once:{tmp_path / 'served'}") as client:
        await client.wait_ready()
        gone = client.submit(scripted_request("gone", -3))
        late = client.submit(msgspec.structs.replace(scripted_request("late", 1), deadline_s=time.monotonic() + 1.0))
        waiting = client.submit(scripted_request("waiting", 1))
        await until(lambda: client.status().state is EngineState.LOADING)
        num_open = client.status().num_open
        assert client.status().num_waiting == num_open
        gone.abort(AbortReason.CLIENT_GONE)
        assert client.status().num_open == num_open - 1
        assert [output.finish_reason for output in await read_all(late)] == [FinishReason.TIMEOUT]
        assert client.status().num_open == 1
    with pytest.raises(EngineStopped):
        await read_all(waiting)


async def test_restarts_are_bounded() -> None:
    async with scripted_client() as client:
        await client.wait_ready()
        for attempt in range(2):  # each ends the engine twice
            with pytest.raises(EngineDied):
                await read_all(client.submit(scripted_request(str(attempt), -1)))
            if attempt == 0:
                await until(lambda: client.status().state is EngineState.READY)
        async with asyncio.timeout(DEADLINE_S):
            reason = await client.wait_dead()
        assert "exit status 3" in reason
        with pytest.raises(EngineUnavailable):
            client.submit(scripted_request("late", 1))
