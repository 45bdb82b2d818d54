"""running: a child of a job from its start to its end, whichever way that comes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from engine.jobs.finetune.job import JobFolder
from server.finetuning.jobs.child import Child
from server.finetuning.jobs.surroundings import Surroundings


@dataclass(slots=True)
class Ending:
    """How a task that is canceled ends its child: killed at once, or after it has saved what it has."""

    is_saving: bool = True
    child: Child | None = field(default=None, init=False)

    def hurry(self) -> None:
        """Kill the child now, and any other one."""
        self.is_saving = False
        if self.child is not None:
            self.child.kill()


@contextlib.asynccontextmanager
async def running(
    around: Surroundings, module: str, arguments: list[str], folder: JobFolder, ending: Ending
) -> AsyncIterator[Child]:
    """Within it the process lives, unless it ends by itself, and gives way to clients; after it, it is gone."""
    await around.gate.passed()
    child = await around.start_child(module, arguments, folder.lock)
    ending.child = child
    try:
        with around.gate.admitted(child):
            yield child
    except asyncio.CancelledError:
        if ending.is_saving:
            await child.end()
        raise
    finally:
        child.kill()
        ending.child = None
        await child.wait()
