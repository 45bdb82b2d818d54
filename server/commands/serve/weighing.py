"""weigh: what models need of the memory, as a process that may load torch finds out."""

import asyncio
import os
import sys
from collections.abc import Callable, Sequence

import msgspec

from engine.child_processes.environment import compute_environment
from engine.child_processes.lifetime import PARENT_VARIABLE
from engine.command_io.weighing import Weighed, Weighing, WeighMessage
from engine.config import EngineConfig
from engine.errors import StartupError
from engine.protocol import Loading

_COMMAND = (sys.executable, "-P", "-m", "engine.commands.weigh")


async def weigh(configs: Sequence[EngineConfig], show: Callable[[Loading], None]) -> list[Weighed]:
    """One for each, in order. show: the progress of what is fetched on the way. Raises StartupError."""
    process = await asyncio.create_subprocess_exec(
        *_COMMAND,
        msgspec.json.encode(configs).decode(),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env={**compute_environment(), PARENT_VARIABLE: str(os.getpid())},
    )
    assert process.stdout is not None
    weighed: list[Weighed] = []
    try:
        async for line in process.stdout:
            match msgspec.json.decode(line, type=WeighMessage):
                case Weighing(stage=stage, done=done, total=total, unit=unit):
                    show(Loading(stage, done, total, unit))
                case Weighed() as each:
                    weighed.append(each)
        code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if code != 0 or len(weighed) != len(configs):
        raise StartupError(f"the memory that the models need could not be measured: exit status {code}, see above")
    return weighed
