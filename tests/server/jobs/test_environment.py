"""A child of a job ends with whoever runs it, and saves what it has first, unless there is no time for that."""

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from engine.child_processes.background import IDLE
from engine.errors import EngineStopped
from server.config.finetuning import FinetuningJobsConfig, FinetuningYield
from server.jobs.child import Child, ChildEnding
from server.jobs.environment import JobEnvironment, new_environment
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

    def suspend(self) -> None:
        """Nothing."""

    def resume(self) -> None:
        """Nothing."""

    def kill(self) -> None:
        self.calls.append("kill")
        self.saved.set()
        self._is_dead.set()

    def processor_use(self) -> None:
        """Nobody knows."""

    def raise_priority(self) -> None:
        self.calls.append("raise_priority")

    async def end(self) -> None:
        self.calls.append("end")
        await self.saved.wait()


async def _look() -> None:
    """At nothing."""


def _environment(folder: Path, child: _Child) -> JobEnvironment:
    context = make_app(
        trained_client(), data_dir=str(folder), finetuning=FinetuningJobsConfig(finetune_yield=FinetuningYield.NEVER)
    ).state.context

    async def start(_module: str, _arguments: list[str], _lock: Path, _priority: str) -> _Child:
        return child

    return new_environment(context, no_answer, start=start)


def _run(env: JobEnvironment, folder: Path, ending: ChildEnding) -> AbstractAsyncContextManager[Child]:
    return env.child("m", [], lock=folder / "lock", ending=ending, priority=IDLE, look=_look)


@pytest.mark.parametrize("error", [EngineStopped("the server is being stopped"), RuntimeError("an error of ours")])
@pytest.mark.parametrize("is_saving", [True, False])
async def test_a_child_whose_server_fails_saves_what_it_has(tmp_path: Path, error: Exception, is_saving: bool) -> None:
    child = _Child()
    child.saved.set()
    with pytest.raises(type(error)):
        async with _run(_environment(tmp_path, child), tmp_path, ChildEnding(is_saving)):
            raise error
    assert child.calls == (["end", "kill"] if is_saving else ["kill"])


async def test_a_second_cancellation_does_not_kill_a_child_that_saves(tmp_path: Path) -> None:
    child, ending = _Child(), ChildEnding()
    env = _environment(tmp_path, child)

    async def run() -> None:
        async with _run(env, tmp_path, ending) as each:
            await each.wait()

    task = asyncio.create_task(run())
    await until(lambda: ending.child is not None)
    task.cancel()
    await until(lambda: child.calls)
    task.cancel()  # the server ends while a paused job saves
    await asyncio.sleep(0)
    assert child.calls == ["end"]
    ending.kill_after(0.0)
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert child.calls[:3] == ["end", "raise_priority", "kill"]
