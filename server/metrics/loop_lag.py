"""watch_loop: how late the event loop is."""

import asyncio
import time
from collections.abc import Callable

_INTERVAL_S = 0.5


async def watch_loop(
    record: Callable[[float], None], *, interval_s: float = _INTERVAL_S, clock: Callable[[], float] = time.monotonic
) -> None:
    """Give `record` the seconds by which each timer was late, until canceled. What blocks the loop delays every stream
    and probe by so much."""
    while True:
        due_s = clock() + interval_s
        await asyncio.sleep(interval_s)
        record(max(0.0, clock() - due_s))
