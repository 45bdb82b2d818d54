"""shielded and persist: finish an operation although the caller is canceled, and retry it while the disk fails."""

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
    """Return the result of `work`. If the caller is canceled, raises CancelledError only once the work is done: a
    thread cannot be canceled, and callers that clean up must know what it did. The work must be short."""
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
    """Return the result of `work`, retried as long as it raises StorageFailed. Each attempt is shielded.

    subject: the job or object that waits for the disk, for the log.
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
