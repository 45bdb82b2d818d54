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


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = DEADLINE_S) -> float:
    """The same without an event loop: polls, and returns the seconds that it took; fails with `what`."""
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < timeout_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - began_s
