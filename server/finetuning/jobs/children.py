"""running: a child of a job from its start to its end, whichever way that comes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from engine.jobs.finetune.job import JobFolder
from server.finetuning.jobs.child import Child
from server.finetuning.jobs.settled import settled
from server.finetuning.jobs.surroundings import Surroundings


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
        """Leave it so long to save what it has."""
        asyncio.get_running_loop().call_later(seconds, self.hurry)


@contextlib.asynccontextmanager
async def running(
    around: Surroundings, module: str, arguments: list[str], folder: JobFolder, ending: Ending, priority: str
) -> AsyncIterator[Child]:
    """Within it the process lives, unless it ends by itself, and gives way to clients; after it, it is gone."""
    await around.gate.passed()
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
