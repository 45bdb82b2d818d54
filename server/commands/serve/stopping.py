"""How long the server runs: until a signal, or until its engine is given up."""

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from engine.errors import StartupError
from engine.wording import counted
from server.commands.serve.engines import Engines

if TYPE_CHECKING:
    from server.context import ServerContext

logger = logging.getLogger(__name__)

Stop = asyncio.Future[signal.Signals]
_Result = TypeVar("_Result")


async def run_until_stopped(
    stop_signal: Stop, engines: Engines, context: "ServerContext", drain: Callable[[], Awaitable[None]]
) -> None:
    """Serve until a signal, and for SIGTERM until what runs is finished. Raises StartupError if the engine is dead."""
    if (reason := await unless(stop_signal, engines.wait_dead())) is not None:
        raise StartupError(reason)
    if stop_signal.result() is signal.SIGTERM:
        await drain()
    elif num_open := context.models.num_unfinished:
        logger.info("stopping: ending %s", counted(num_open, "request"))


def catch_signals() -> Stop:
    """A future that holds the first SIGINT or SIGTERM; the second ends the process at once.

    The engine process needs no signal: it ends when the socket pair does.
    """
    loop = asyncio.get_running_loop()
    first: Stop = loop.create_future()

    def receive(number: signal.Signals) -> None:
        if first.done():
            os._exit(128 + number)
        first.set_result(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, receive, number)
    return first


async def unless(stop: "asyncio.Future[Any]", waited: Coroutine[Any, Any, _Result]) -> _Result | None:
    """The result of `waited`, or None if `stop` comes first."""
    task = asyncio.ensure_future(waited)
    await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        return task.result()
    task.cancel()
    return None
