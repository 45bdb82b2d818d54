"""watch_loop: measures how late the event loop runs."""

import asyncio
import time
from collections.abc import Callable

_INTERVAL_S = 0.5


async def watch_loop(
    record: Callable[[float], None], *, interval_s: float = _INTERVAL_S, clock: Callable[[], float] = time.monotonic
) -> None:
    """Call `record` with the delay of each timer in seconds, until canceled. Whatever blocks the loop delays every
    stream and probe by as much."""
    while True:
        due_s = clock() + interval_s
        await asyncio.sleep(interval_s)
        record(max(0.0, clock() - due_s))
