"""watch_loop: measures how late the event loop runs."""

import asyncio
import time
from collections.abc import Callable

_INTERVAL_S = 0.5


async def watch_loop(
    record: Callable[[float], None], *, interval_s: float = _INTERVAL_S, clock: Callable[[], float] = time.monotonic
) -> None:
    """Call `record` with the seconds by which each timer is late, until canceled."""
    while True:
        due_s = clock() + interval_s
        await asyncio.sleep(interval_s)
        record(max(0.0, clock() - due_s))
