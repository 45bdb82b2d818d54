"""How long tests wait for what must come: so long that no machine is as slow, since a test tells nothing of a time."""

import asyncio
import time
from collections.abc import Callable

DEADLINE_S = 60.0


async def until(condition: Callable[[], object], poll_s: float = 0.001) -> None:
    """Wait until `condition` holds; raises TimeoutError at the deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(poll_s)


def wait_until(condition: Callable[[], object], poll_s: float = 0.001) -> None:
    """The same for tests without an event loop."""
    end_s = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > end_s:
            raise TimeoutError
        time.sleep(poll_s)
