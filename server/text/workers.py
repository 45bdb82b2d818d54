"""Threads for what takes long with a request's text: parsing, rendering, tokenizing.

They are few, and their own. More at once would only take processors from the engine, and each that runs Python code
makes the event loop wait for its turn. What a request that is canceled, since its client has gone, still waits for is
dropped before it runs.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from engine.child_processes.allocator import give_back_memory

T = TypeVar("T")

MAX_SHORT, MAX_LONG = 2, 2  # works of each lane that run at once
LONG_SIZE = 1 << 16  # characters or bytes; a longer text is in the long lane
ITEM_SIZE = 64  # of text, that takes as long as a message or another item does by itself
_INLINE_SIZE = 1 << 12
_SETTLED_S = 1.0  # after a long text: its request's own objects are gone then, and it is looked for but once


class TextWorkers:
    """Two lanes, so that short texts do not wait behind long ones. For one event loop; threads start when needed."""

    def __init__(self) -> None:
        self._short = ThreadPoolExecutor(MAX_SHORT, "text")
        self._long = ThreadPoolExecutor(MAX_LONG, "long-text")
        self._giving_back: asyncio.TimerHandle | None = None

    async def run(self, work: Callable[[], T], *, size: int) -> T:
        """The result of `work`, whose text has `size` characters or bytes. Raises what it raises."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._long if size > LONG_SIZE else self._short, work)
        finally:
            if size > LONG_SIZE and self._giving_back is None:
                self._giving_back = loop.call_later(_SETTLED_S, self._give_back, loop)

    async def run_unless_short(self, work: Callable[[], T], *, size: int) -> T:
        """As `run`, but at once, on the event loop, for a text that takes it less than to hand it over."""
        return work() if size <= _INLINE_SIZE else await self.run(work, size=size)

    def _give_back(self, loop: asyncio.AbstractEventLoop) -> None:
        self._giving_back = None
        loop.run_in_executor(self._long, give_back_memory)

    def close(self) -> None:
        """Drop what waits; what runs is left to its end."""
        if self._giving_back is not None:
            self._giving_back.cancel()
        for lane in (self._short, self._long):
            lane.shutdown(wait=False, cancel_futures=True)
