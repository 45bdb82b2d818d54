"""on_hangup: what a server does at SIGHUP, which ends a process that does nothing about it."""

import asyncio
import logging
import signal
from collections.abc import Callable

logger = logging.getLogger(__name__)


def on_hangup(*actions: Callable[[], None]) -> None:
    """Call these at each SIGHUP. Without any, it goes on to end the process, as when a terminal is closed."""
    if not actions:
        return

    def receive() -> None:
        logger.info("SIGHUP: reading files again")
        for action in actions:
            action()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, receive)
