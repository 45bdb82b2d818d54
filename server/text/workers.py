"""Threads for slow work with a request's text: parsing, rendering and tokenization.

The threads are few and do nothing else. More would only take processors from the engine, and each thread that runs
Python code delays the event loop. If a request is canceled, its queued work is dropped.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from engine.child_processes.allocator import give_back_memory

T = TypeVar("T")

MAX_SHORT, MAX_LONG = 2, 2  # threads of each lane
LONG_SIZE = 1 << 16  # characters or bytes; longer texts use the long lane
ITEM_SIZE = 64  # characters of text that take as long as a message or another item itself
_INLINE_SIZE = 1 << 12
_TRIM_DELAY_S = 1.0  # after a long text, when its request's objects are freed


class TextWorkers:
    """Two thread pools, so that short texts do not wait for long ones. For one event loop; threads start lazily."""

    def __init__(self) -> None:
        self._short = ThreadPoolExecutor(MAX_SHORT, "text")
        self._long = ThreadPoolExecutor(MAX_LONG, "long-text")
        self._giving_back: asyncio.TimerHandle | None = None

    async def run(self, work: Callable[[], T], *, size: int) -> T:
        """Run `work` on a thread and return its result. size: characters or bytes of its text, to choose the pool."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._long if size > LONG_SIZE else self._short, work)
        finally:
            if size > LONG_SIZE and self._giving_back is None:
                self._giving_back = loop.call_later(_TRIM_DELAY_S, self._give_back, loop)

    async def run_unless_short(self, work: Callable[[], T], *, size: int) -> T:
        """Run `work` directly on the event loop if `size` (characters or bytes) is small, else on a thread."""
        return work() if size <= _INLINE_SIZE else await self.run(work, size=size)

    def _give_back(self, loop: asyncio.AbstractEventLoop) -> None:
        self._giving_back = None
        loop.run_in_executor(self._long, give_back_memory)

    def close(self) -> None:
        """Drop queued work. Work that has started runs to its end."""
        if self._giving_back is not None:
            self._giving_back.cancel()
        for lane in (self._short, self._long):
            lane.shutdown(wait=False, cancel_futures=True)


def json_size(*values: Any) -> int:
    """Return the size of JSON values, for `run`: characters, plus ITEM_SIZE a value. Counting stops above LONG_SIZE."""
    size = 0
    pending = list(values)
    while pending and size <= LONG_SIZE:
        value = pending.pop()
        size += ITEM_SIZE
        if isinstance(value, str):
            size += len(value)
        elif isinstance(value, dict | list) and size + ITEM_SIZE * len(value) > LONG_SIZE:
            return LONG_SIZE + ITEM_SIZE  # without counting each item, since the event loop waits
        elif isinstance(value, dict):
            size += sum(map(len, value))
            pending += value.values()
        elif isinstance(value, list):
            pending += value
    return size
