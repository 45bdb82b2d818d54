"""EngineSupervisor: whatever fails in supervision, the engine is known to be dead."""

import asyncio
import sys

import pytest

from engine.client.callbacks import EngineCallbacks
from engine.client.interface import EngineState
from engine.client.process_client import ProcessClient
from engine.config import EngineConfig
from engine.errors import EngineDied, EngineUnavailable
from engine.protocol import EngineRequest, SamplingParams, StepStats
from tests.helpers.deadline import DEADLINE_S


def _request(name: str) -> EngineRequest:
    return EngineRequest(id=name, prompt_ids=[5], sampling=SamplingParams(max_tokens=9), arrival_s=0.0)


async def test_an_engine_is_dead_when_a_callback_of_its_steps_fails_each_time() -> None:
    """Also when streams are given up, which tells the callback of it."""

    def fail(_: StepStats) -> None:
        raise ZeroDivisionError("a fault of a callback")

    command = (sys.executable, "-m", "tests.helpers.scripted_engine", "serving")
    client = ProcessClient(EngineConfig(), max_num_waiting=4, command=command, callbacks=EngineCallbacks(on_step=fail))
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)  # the second fault is logged there
    await client.start()
    try:
        async with asyncio.timeout(DEADLINE_S):
            await client.wait_ready()
            with pytest.raises(EngineDied):
                _ = [output async for output in client.submit(_request("a"))]
            reason = await client.wait_dead()
        assert reason == "the engine's supervision failed: a fault of a callback"
        assert client.status().state is EngineState.DEAD
        with pytest.raises(EngineUnavailable, match="supervision failed"):
            client.submit(_request("late"))
    finally:
        await client.stop()
