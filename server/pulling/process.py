"""fetch_in_process: runs the process that fetches a model, since this one must not import torch."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator

import msgspec

from engine.child_processes.environment import compute_environment
from engine.child_processes.lifetime import describe_exit
from engine.command_io.pulling import Pulled, PullMachine, PullMessage, PullProgress, PullRefused
from server.errors import PullFailed

_COMMAND = (sys.executable, "-P", "-m", "engine.commands.pull.for_server")
_END_TIMEOUT_S = 10.0  # after SIGTERM, from which the process closes its files


async def fetch_in_process(model: str) -> AsyncGenerator[PullMachine | PullProgress | Pulled]:
    """Fetch a model, and yield the messages of the process. Raises PullFailed. Closing the generator stops the process;
    the next one resumes.

    The event loop of the main thread must call this: the process ends with the thread that starts it.
    """
    process = await asyncio.create_subprocess_exec(
        *_COMMAND,
        model,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,  # a Ctrl-C in the terminal is the server's to handle
        env=compute_environment(),
    )
    assert process.stdout is not None
    try:
        has_result = False
        async for line in process.stdout:
            match msgspec.json.decode(line, type=PullMessage):
                case PullRefused(message=message):
                    raise PullFailed(message)
                case message:
                    has_result = isinstance(message, Pulled)
                    yield message
        code = await process.wait()
        if not has_result:
            raise PullFailed(f"the process that fetched the model ended with {describe_exit(code)}; the log has more")
    finally:
        if process.returncode is None:
            await _complete(asyncio.create_task(_end(process)))


async def _complete(task: "asyncio.Task[None]") -> None:
    """Wait until the task is done. A cancellation meanwhile has no effect: the caller is ending already."""
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task})
    task.result()


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the process, and its own child processes, such as pip."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_END_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
