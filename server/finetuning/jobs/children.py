"""running: a child of a job from its start to its end, whichever way that comes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from engine.command_io.finetuning.job import JobFolder
from server.finetuning.jobs.child import Child
from server.finetuning.jobs.idle_gate import IdleGate
from server.finetuning.jobs.settled import settled
from server.finetuning.jobs.surroundings import Surroundings

_LOOK_S = 1.0


@dataclass(slots=True)
class Ending:
    """How a task that ends before its child ends that: killed at once, or after it has saved what it has."""

    is_saving: bool = True
    child: Child | None = field(default=None, init=False)

    def hurry(self) -> None:
        """Kill the child now, and any other one."""
        self.is_saving = False
        if self.child is not None:
            self.child.kill()

    def hurry_after(self, seconds: float) -> None:
        """Leave it so long to save what it has: not behind other programs, since somebody waits."""
        if self.child is not None:
            self.child.hasten()
        asyncio.get_running_loop().call_later(seconds, self.hurry)


@contextlib.asynccontextmanager
async def running(
    around: Surroundings,
    module: str,
    arguments: list[str],
    folder: JobFolder,
    ending: Ending,
    priority: str,
    look: Callable[[], Awaitable[None]],
) -> AsyncIterator[Child]:
    """Within it the process lives, unless it ends by itself, and gives way to clients; after it, it is gone.

    look: called now and then while it cannot be started for clients.
    """
    while not await _has_passed(around.gate):
        await look()
    child = await around.start_child(module, arguments, folder.lock, priority)
    ending.child = child
    try:
        with around.gate.admitted(child):
            yield child
    except BaseException:  # canceled, or an error of the server's: no reason to lose what the process has computed
        if ending.is_saving:
            await settled(child.end())  # a server that ends cancels again what was paused
        raise
    finally:
        child.kill()
        ending.child = None
        await child.wait()


async def _has_passed(gate: IdleGate) -> bool:
    """Whether it has opened, within a while. Then it is open: nothing has run since."""
    try:
        async with asyncio.timeout(_LOOK_S):
            await gate.passed()
    except TimeoutError:
        return False
    return True
