"""settled: work that is waited for to its end, even if whoever waits is canceled."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def settled(work: Coroutine[Any, Any, T]) -> T:
    """What the work returns. Canceled, it raises CancelledError only when the work is over: what a thread does cannot
    be canceled, and whoever cleans up has to know what it did. For work that ends soon, whatever happens."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # which nobody else asks for
        raise
