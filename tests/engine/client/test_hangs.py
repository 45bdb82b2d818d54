"""ProcessClient whose scripted engine process makes no progress: it is killed and started again."""

import os
import signal

import pytest

from engine.client import process_client, supervisor
from engine.client.interface import EngineCallbacks, EngineEnd, EngineState, RestartReason
from engine.client.process_client import ProcessClient
from engine.client.supervisor import ProgressClock
from engine.errors import EngineDied
from engine.protocol import FinishReason
from tests.helpers.deadline import until
from tests.helpers.scripted_client import read_all, scripted_client, scripted_pid, scripted_request

HANG_TIMEOUT_S, HOURS_S = 60.0, 7200.0


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


class Looks:
    """How many times the watchdog has looked at a client."""

    def __init__(self, client: ProcessClient) -> None:
        self.number = 0
        self._silent_s = client._clock.silent_s
        client._clock.silent_s = self._look  # type: ignore[method-assign]

    def _look(self, now: float) -> float:
        self.number += 1
        return self._silent_s(now)


async def test_an_engine_that_hangs_is_killed_and_started_again(clock: HandClock) -> None:
    restarts: list[EngineEnd] = []
    callbacks = EngineCallbacks(on_restart=restarts.append)
    async with scripted_client(hang_timeout_s=HANG_TIMEOUT_S, callbacks=callbacks) as client:
        await client.wait_ready()
        stuck = client.submit(scripted_request("b", -4))
        for num_restarts in (1, 2):
            await until(lambda: client.status().state is EngineState.READY)
            clock.now_s += HANG_TIMEOUT_S + 1
            await until(lambda: client.status().num_restarts == num_restarts)  # noqa: B023
        with pytest.raises(EngineDied, match="ended twice"):  # it hangs the next engine too
            await read_all(stuck)
        await until(lambda: client.status().state is EngineState.READY)
        assert [(each.reason, each.num_continued, each.num_failed) for each in restarts] == [
            (RestartReason.HANG, 1, 0),
            (RestartReason.HANG, 0, 1),
        ]
        assert "made no progress for" in restarts[0].cause


async def test_without_a_limit_silence_is_told_and_nothing_killed(clock: HandClock) -> None:
    """Also to somebody who asks only now and then: probes come every ten seconds."""
    async with scripted_client(hang_timeout_s=0) as client:
        await client.wait_ready()
        client.submit(scripted_request("a", -6))
        looks = Looks(client)
        clock.now_s += 100
        await until(lambda: looks.number > 2)
        assert client.status().seconds_since_progress == 100
        assert client.status().num_restarts == 0


async def test_a_stopped_engine_is_killed_and_may_be_continued(clock: HandClock) -> None:
    async with scripted_client(hang_timeout_s=HANG_TIMEOUT_S) as client:
        await client.wait_ready()
        stopped = scripted_pid()
        os.kill(stopped, signal.SIGSTOP)
        stream = client.submit(scripted_request("a", 3))
        clock.now_s += HANG_TIMEOUT_S + 1
        outputs = await read_all(stream)
        assert [token_id for output in outputs for token_id in output.new_ids] == [0, 1, 2]
        assert client.status().num_restarts == 1
        with pytest.raises(ProcessLookupError):
            os.kill(stopped, signal.SIGCONT)


async def test_a_long_step_that_gets_on_is_no_hang(clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted_client(hang_timeout_s=HANG_TIMEOUT_S) as client:
        await client.wait_ready()
        looks = Looks(client)
        restart = client._clock.restart

        def restart_and_be_silent(now: float) -> None:
            restart(now)
            clock.now_s += HANG_TIMEOUT_S - 1

        monkeypatch.setattr(client._clock, "restart", restart_and_be_silent)
        (output,) = await read_all(client.submit(scripted_request("a", -5, 20)))
        assert output.finish_reason is FinishReason.LENGTH
        assert client.status().num_restarts == 0
        assert looks.number > 0
        assert clock.now_s > 1000 + 20 * (HANG_TIMEOUT_S - 1)
