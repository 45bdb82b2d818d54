"""watch_machine: notes the machine's load in the history, for the dashboard."""

import asyncio
import logging

from server.live.history import History
from server.live.machine import MachineSampler

logger = logging.getLogger(__name__)

_INTERVAL_S = 10.0


async def watch_machine(machine: MachineSampler, history: History, interval_s: float = _INTERVAL_S) -> None:
    """Note the machine's load in the history, until canceled. An error is logged, once until a sample succeeds."""
    has_failed = False
    while True:
        try:
            history.on_machine(await asyncio.to_thread(machine.sample))
            has_failed = False
        except Exception:  # the boundary of a background task
            if not has_failed:
                logger.exception("the machine's load cannot be read; the dashboard lacks it until it can")
            has_failed = True
        await asyncio.sleep(interval_s)
