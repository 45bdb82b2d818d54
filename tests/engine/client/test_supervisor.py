"""EngineSupervisor: whatever fails in supervision, the engine is known to be dead."""

import asyncio

import pytest

from engine.client.interface import EngineCallbacks, EngineState
from engine.errors import EngineDied, EngineUnavailable
from engine.protocol import StepStats
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.scripted_client import scripted_client, scripted_request


async def test_an_engine_is_dead_when_a_callback_of_its_steps_fails_each_time() -> None:
    """Also when streams are given up, which tells the callback of it."""

    def fail(_: StepStats) -> None:
        raise ZeroDivisionError("a fault of a callback")

    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)  # the second fault is logged there
    async with scripted_client(callbacks=EngineCallbacks(on_step=fail)) as client:
        async with asyncio.timeout(DEADLINE_S):
            await client.wait_ready()
            with pytest.raises(EngineDied):
                _ = [output async for output in client.submit(scripted_request("a", 5))]
            reason = await client.wait_dead()
        assert reason == "the engine's supervision failed: a fault of a callback"
        assert client.status().state is EngineState.DEAD
        with pytest.raises(EngineUnavailable, match="supervision failed"):
            client.submit(scripted_request("late", 5))
