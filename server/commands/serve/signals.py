"""Signals of the server process: SIGINT and SIGTERM stop it, SIGHUP reloads files."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

Stop = asyncio.Future[signal.Signals]
_Result = TypeVar("_Result")


def catch_signals() -> Stop:
    """Return a future for the first SIGINT or SIGTERM. The second one exits the process immediately."""
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
    """Await `waited` and return its result; if `stop` is done first, cancel it and return None."""
    task = asyncio.ensure_future(waited)
    await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        return task.result()
    task.cancel()
    return None


def on_hangup(*actions: Callable[[], None]) -> None:
    """Call the actions at each SIGHUP. Without actions, SIGHUP still ends a server that has a terminal, and is ignored
    by a server without one, such as a service during a reload."""
    if not actions and has_terminal():
        return

    def receive() -> None:
        logger.info("SIGHUP: %s", "reloading files" if actions else "there are no files to reload")
        for action in actions:
            action()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, receive)


def has_terminal() -> bool:
    """Whether this process has a controlling terminal, which sends SIGHUP when it is closed."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
