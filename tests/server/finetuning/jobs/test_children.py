"""A child of a job ends with whoever runs it, and saves what it has first, unless there is no time for that."""

import asyncio
from pathlib import Path

import pytest

from engine.child_processes.background import IDLE
from engine.command_io.finetuning.job import JobFolder
from engine.errors import EngineStopped
from server.config.finetuning import FinetuneYield
from server.finetuning.jobs.children import Ending, running
from server.finetuning.jobs.idle_gate import IdleGate
from server.finetuning.jobs.publisher import Publisher
from server.finetuning.jobs.surroundings import Surroundings
from tests.helpers.deadline import until
from tests.helpers.fake_client import make_app
from tests.helpers.fake_trainer import no_answer, trained_client

pytestmark = pytest.mark.fast


class _Child:
    """saved: when it may end after it was asked to save."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.saved = asyncio.Event()
        self._is_dead = asyncio.Event()

    async def wait(self) -> int:
        await self._is_dead.wait()
        return 0

    async def output(self) -> bytes:
        return b""

    def stop(self) -> None:
        """Nothing."""

    def go_on(self) -> None:
        """Nothing."""

    def kill(self) -> None:
        self.calls.append("kill")
        self.saved.set()
        self._is_dead.set()

    def processor_use(self) -> None:
        """Nobody knows."""

    def hasten(self) -> None:
        self.calls.append("hasten")

    async def end(self) -> None:
        self.calls.append("end")
        await self.saved.wait()


async def _look() -> None:
    """At nothing."""


def _around(folder: Path, child: _Child) -> Surroundings:
    context = make_app(trained_client(), enable_lora=True, data_dir=str(folder)).state.context

    async def start(_module: str, _arguments: list[str], _lock: Path, _priority: str) -> _Child:
        return child

    return Surroundings(
        files=context.files,
        data_dir=str(folder),
        models=context.models,
        metrics=context.metrics,
        publisher=Publisher(context.models, str(folder)),
        gate=IdleGate(lambda: False, FinetuneYield.NEVER),
        start_child=start,
        answer_chat=no_answer,
    )


@pytest.mark.parametrize("error", [EngineStopped("the server is being stopped"), RuntimeError("an error of ours")])
@pytest.mark.parametrize("is_saving", [True, False])
async def test_a_child_whose_server_fails_saves_what_it_has(tmp_path: Path, error: Exception, is_saving: bool) -> None:
    child = _Child()
    child.saved.set()
    with pytest.raises(type(error)):
        async with running(_around(tmp_path, child), "m", [], JobFolder(tmp_path), Ending(is_saving), IDLE, _look):
            raise error
    assert child.calls == (["end", "kill"] if is_saving else ["kill"])


async def test_a_second_cancellation_does_not_kill_a_child_that_saves(tmp_path: Path) -> None:
    child, ending = _Child(), Ending()
    around = _around(tmp_path, child)

    async def run() -> None:
        async with running(around, "m", [], JobFolder(tmp_path), ending, IDLE, _look) as each:
            await each.wait()

    task = asyncio.create_task(run())
    await until(lambda: ending.child is not None)
    task.cancel()
    await until(lambda: child.calls)
    task.cancel()  # the server ends while a paused job saves
    await asyncio.sleep(0)
    assert child.calls == ["end"]
    ending.hurry_after(0.0)
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert child.calls[:3] == ["end", "hasten", "kill"]
