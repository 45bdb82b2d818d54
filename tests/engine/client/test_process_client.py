"""ProcessClient against a scripted engine process: delivery, aborts, death and restart."""

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from engine.client import process_client, supervisor
from engine.client.callbacks import EngineCallbacks
from engine.client.interface import EngineState, RequestStream, RestartReason
from engine.client.process_client import ProcessClient
from engine.client.progress_clock import ProgressClock
from engine.config import EngineConfig
from engine.errors import EngineDied, EngineStopped, EngineUnavailable, OptionError, QueueFull, StartupError
from engine.protocol import AbortReason, EngineInfo, EngineRequest, FinishReason, RequestOutput, SamplingParams
from engine.sampler_params import MirostatParams
from tests.helpers.deadline import DEADLINE_S, until, wait_until

HANG_TIMEOUT_S, HOURS_S = 60.0, 7200.0


@asynccontextmanager
async def _client(mode: str = "serving", **options: object) -> AsyncIterator[ProcessClient]:
    command = (sys.executable, "-m", "tests.helpers.scripted_engine", mode)
    client = ProcessClient(EngineConfig(), **{"max_num_waiting": 4, "command": command, **options})  # type: ignore[arg-type]
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


class HandClock:
    """The client's clock, which stands until a test moves it: then how fast an engine answers is all one."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> HandClock:
    clock = HandClock()
    monkeypatch.setattr(process_client, "time", clock)
    monkeypatch.setattr(process_client, "ProgressClock", lambda now, **_: ProgressClock(now, max_gap_s=HOURS_S))
    monkeypatch.setattr(supervisor, "WATCH_INTERVAL_S", 0.005)
    return clock


def _request(name: str, *prompt: int) -> EngineRequest:
    return EngineRequest(id=name, prompt_ids=list(prompt), sampling=SamplingParams(max_tokens=9), arrival_s=0.0)


def _engine_pid() -> int:
    """The process id of the scripted engine; servers of other tests may be this process's children, too."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    (pid,) = (pid for pid in children if b"scripted_engine" in Path(f"/proc/{pid}/cmdline").read_bytes())
    return int(pid)


async def _read_all(stream: RequestStream) -> list[RequestOutput]:
    async with asyncio.timeout(DEADLINE_S):
        return [output async for output in stream]


class Looks:
    """How many times the watchdog has looked at a client."""

    def __init__(self, client: ProcessClient) -> None:
        self.number = 0
        self._silent_s = client._clock.silent_s
        client._clock.silent_s = self._look  # type: ignore[method-assign]

    def _look(self, now: float) -> float:
        self.number += 1
        return self._silent_s(now)


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
        await until(lambda: client.status().num_open == 0)
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
        await until(lambda: client.status().num_open == 0)
        assert discarded == [1]


async def test_a_dead_engine_is_started_again_and_goes_on_with_its_streams() -> None:
    restarts: list[RestartReason] = []
    async with _client(callbacks=EngineCallbacks(on_restart=restarts.append)) as client:
        await client.wait_ready()
        outputs = await _read_all(client.submit(_request("a", -8, 3)))
        assert [token_id for output in outputs for token_id in output.new_ids] == [0, 1, 2]
        assert outputs[-1].finish_reason is FinishReason.LENGTH
        await until(lambda: client.status().state is EngineState.READY)
        assert (await _read_all(client.submit(_request("c", 1))))[0].new_ids == [0]
        assert restarts == [RestartReason.CRASH]
        assert client.status().num_restarts == 1


async def test_each_start_and_end_of_the_engine_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    pids: list[int | None] = []
    infos: list[EngineInfo] = []
    async with _client(callbacks=EngineCallbacks(on_process=pids.append, on_ready=infos.append)) as client:
        await client.wait_ready()
        first = _engine_pid()
        os.kill(first, signal.SIGKILL)
        await until(lambda: len(infos) == 2)
        assert pids == [first, None, _engine_pid()]
    assert pids[-1] is None
    told = [message.partition(":")[0] for message in caplog.messages if "engine" in message]
    assert told == [
        "the engine process ended with SIGKILL (out of memory?)",
        "starting the engine again",
        "the engine is ready again",
    ]


async def test_a_stream_that_has_begun_is_not_what_a_third_engine_ends_of() -> None:
    async with _client() as client:
        await client.wait_ready()
        begun = client.submit(_request("a", -8, 9))
        with pytest.raises(EngineDied, match="ended twice"):
            await _read_all(begun)
        assert client.status().num_restarts == 2


async def test_an_engine_that_sends_no_messages_is_ended_and_started_again(caplog: pytest.LogCaptureFixture) -> None:
    async with _client() as client:
        await client.wait_ready()
        with pytest.raises(EngineDied, match="ended twice"):
            await _read_all(client.submit(_request("a", -7)))
        await until(lambda: client.status().state is EngineState.READY)
        assert client.status().num_restarts == 2
    assert "the engine's messages end" in caplog.text


async def test_a_stream_that_cannot_go_on_ends_with_the_engine() -> None:
    sampling = SamplingParams(max_tokens=9, mirostat=MirostatParams(version=2))
    async with _client() as client:
        await client.wait_ready()
        begun = client.submit(msgspec.structs.replace(_request("a", -8, 3), sampling=sampling))
        with pytest.raises(EngineDied, match="send it again"):
            await _read_all(begun)


async def test_what_an_engine_said_before_it_ended_is_read_though_nothing_can_be_sent_any_more() -> None:
    async with _client() as client:
        await client.wait_ready()
        cause = client.submit(_request("cause", -3))
        engine = Path(f"/proc/{_engine_pid()}/stat")
        await asyncio.sleep(0)  # it is on its way
        wait_until(lambda: ") Z " in engine.read_text(), "it ended")  # nobody reads while the engine ends
        behind = client.submit(_request("b", 1))
        with pytest.raises(EngineDied, match="ended twice"):
            await _read_all(cause)
        assert "b" not in client._streams or client._streams._open["b"].num_deaths == 0
        assert (await _read_all(behind))[-1].finish_reason is FinishReason.LENGTH


async def test_requests_without_output_are_run_again_but_not_the_cause() -> None:
    """The engine ends each time that it starts "cause"; those behind it never had their turn."""
    async with _client() as client:
        await client.wait_ready()
        cause = client.submit(_request("cause", -3))
        behind = [client.submit(_request("b", 2)), client.submit(_request("c", 1))]
        with pytest.raises(EngineDied, match="ended twice"):
            await _read_all(cause)
        ids = [[token_id for output in await _read_all(stream) for token_id in output.new_ids] for stream in behind]
        assert ids == [[0, 1], [0]]
        assert client.status().num_restarts == 2
        assert client.status().num_open == 0


async def test_a_request_that_waits_for_the_next_engine_can_be_aborted_and_runs_out_of_time(tmp_path: Path) -> None:
    async with _client(f"once:{tmp_path / 'served'}") as client:
        await client.wait_ready()
        gone = client.submit(_request("gone", -3))
        late = client.submit(msgspec.structs.replace(_request("late", 1), deadline_s=time.monotonic() + 1.0))
        waiting = client.submit(_request("waiting", 1))
        await until(lambda: client.status().state is EngineState.LOADING)
        num_open = client.status().num_open
        assert client.status().num_waiting == num_open
        gone.abort(AbortReason.CLIENT_GONE)
        assert client.status().num_open == num_open - 1
        assert [output.finish_reason for output in await _read_all(late)] == [FinishReason.TIMEOUT]
        assert client.status().num_open == 1
    with pytest.raises(EngineStopped):
        await _read_all(waiting)


async def test_an_engine_that_hangs_is_killed_and_started_again(clock: HandClock) -> None:
    restarts: list[RestartReason] = []
    callbacks = EngineCallbacks(on_restart=restarts.append)
    async with _client(hang_timeout_s=HANG_TIMEOUT_S, callbacks=callbacks) as client:
        await client.wait_ready()
        stuck = client.submit(_request("b", -4))
        for num_restarts in (1, 2):
            await until(lambda: client.status().state is EngineState.READY)
            clock.now_s += HANG_TIMEOUT_S + 1
            await until(lambda: client.status().num_restarts == num_restarts)  # noqa: B023
        with pytest.raises(EngineDied, match="ended twice"):  # it hangs the next engine too
            await _read_all(stuck)
        await until(lambda: client.status().state is EngineState.READY)
        assert restarts == [RestartReason.HANG, RestartReason.HANG]


async def test_without_a_limit_silence_is_told_and_nothing_killed(clock: HandClock) -> None:
    """Also to somebody who asks only now and then: probes come every ten seconds."""
    async with _client(hang_timeout_s=0) as client:
        await client.wait_ready()
        client.submit(_request("a", -6))
        looks = Looks(client)
        clock.now_s += 100
        await until(lambda: looks.number > 2)
        assert client.status().seconds_since_progress == 100
        assert client.status().num_restarts == 0


async def test_a_stopped_engine_is_killed_and_may_be_continued(clock: HandClock) -> None:
    async with _client(hang_timeout_s=HANG_TIMEOUT_S) as client:
        await client.wait_ready()
        stopped = _engine_pid()
        os.kill(stopped, signal.SIGSTOP)
        stream = client.submit(_request("a", 3))
        clock.now_s += HANG_TIMEOUT_S + 1
        outputs = await _read_all(stream)
        assert [token_id for output in outputs for token_id in output.new_ids] == [0, 1, 2]
        assert client.status().num_restarts == 1
        with pytest.raises(ProcessLookupError):
            os.kill(stopped, signal.SIGCONT)


async def test_a_long_step_that_gets_on_is_no_hang(clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with _client(hang_timeout_s=HANG_TIMEOUT_S) as client:
        await client.wait_ready()
        looks = Looks(client)
        restart = client._clock.restart

        def restart_and_be_silent(now: float) -> None:
            restart(now)
            clock.now_s += HANG_TIMEOUT_S - 1

        monkeypatch.setattr(client._clock, "restart", restart_and_be_silent)
        (output,) = await _read_all(client.submit(_request("a", -5, 20)))
        assert output.finish_reason is FinishReason.LENGTH
        assert client.status().num_restarts == 0
        assert looks.number > 0
        assert clock.now_s > 1000 + 20 * (HANG_TIMEOUT_S - 1)


async def test_a_stop_tells_open_streams_that_it_was_one() -> None:
    async with _client() as client:
        await client.wait_ready()
        stream = client.submit(_request("a", -2))
    with pytest.raises(EngineStopped, match="the server stopped"):
        await _read_all(stream)


async def test_loading_tells_its_stage() -> None:
    async with _client("loading") as client:
        await until(lambda: client.status().stage is not None)
        status = client.status()
        assert (status.stage, status.progress) == ("load weights", 0.25)
        assert status.reason == "the model is being loaded: load weights, 25 %"


async def test_a_stop_while_loading_ends_the_compiler_too() -> None:
    async with _client("compiling") as client:
        await until(lambda: (client.status().stage or "").isdecimal())
        compiler = Path(f"/proc/{client.status().stage}/stat")
        assert compiler.exists()
    await until(lambda: not compiler.exists() or ") Z " in compiler.read_text())  # Z: nobody has waited for it


async def test_restarts_are_bounded() -> None:
    async with _client() as client:
        await client.wait_ready()
        for attempt in range(2):  # each ends the engine twice
            with pytest.raises(EngineDied):
                await _read_all(client.submit(_request(str(attempt), -1)))
            if attempt == 0:
                await until(lambda: client.status().state is EngineState.READY)
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


async def test_prompt_tokens_that_wait_are_bounded_and_a_longer_prompt_is_taken_behind_none() -> None:
    async with _client(max_num_waiting_tokens=10) as client:
        await client.wait_ready()
        longer = _request("long", -6, *range(20))
        client.check_capacity(1, len(longer.prompt_ids))
        stream = client.submit(longer)
        assert client.status().num_waiting_tokens == 21
        with pytest.raises(QueueFull, match="21 prompt tokens wait, and this request has 1 or more; the limit is 10"):
            client.check_capacity(1)
        stream.abort(AbortReason.CLIENT_GONE)
        await until(lambda: client.status().num_open == 0)
        client.submit(_request("a", -6, 1, 2, 3))
        client.submit(_request("sibling", -6, 1, 2, 3), num_new_tokens=0)
        client.check_capacity(1, 6)
        with pytest.raises(QueueFull):
            client.check_capacity(1, 7)
        begun = client.submit(_request("begun", -2, 1, 2, 3))
        await anext(aiter(begun))
        assert client.status().num_waiting_tokens == 4
