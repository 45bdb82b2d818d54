"""on_hangup: what a server does at SIGHUP, which ends a process that does nothing about it."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable

logger = logging.getLogger(__name__)


def on_hangup(*actions: Callable[[], None]) -> None:
    """Call these at each SIGHUP. Without any, it still ends a server that was started in a terminal, as closing the
    terminal should; one without a terminal, such as a service that is told to reload, goes on."""
    if not actions and has_terminal():
        return

    def receive() -> None:
        logger.info("SIGHUP: %s", "reading files again" if actions else "there are no files to read again")
        for action in actions:
            action()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, receive)


def has_terminal() -> bool:
    """Whether this process belongs to a terminal, which sends SIGHUP when it is closed."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
