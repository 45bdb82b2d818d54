"""until_disconnect: runs work that is canceled if the client disconnects."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.types import Receive

from server.errors import ClientGone

T = TypeVar("T")


async def until_disconnect(work: Awaitable[T], receive: Receive) -> T:
    """Return the result of `work`. If the connection closes first, cancel it and raise ClientGone.

    The request's body must have been read, so that the disconnect is the only message still to come.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)  # nothing of the request runs after this


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
