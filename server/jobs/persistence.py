"""shielded and persist: wait for work to its end, although the caller is canceled, or the disk fails."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from server.errors import StorageFailed

logger = logging.getLogger(__name__)
T = TypeVar("T")

RETRY_S = 5.0  # after a disk that failed


async def shielded(work: Coroutine[Any, Any, T]) -> T:
    """Return what the work returns. If this is canceled, CancelledError is raised only when the work is over: the work
    of a thread cannot be canceled, and callers that clean up must know what it did. The work must end soon."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # marks it as retrieved
        raise


async def persist(
    work: Callable[[], Coroutine[Any, Any, T]],
    subject: str,
    *,
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
) -> T:
    """Return what the work returns, which is repeated as long as it raises StorageFailed. Each attempt is shielded.

    subject: what waits, for the log.
    """
    is_reported = False
    while True:
        try:
            return await shielded(work())
        except StorageFailed as error:
            if not is_reported:
                logger.warning("%s waits for the disk: %s", subject, error)
            is_reported = True
        await sleep(RETRY_S)
