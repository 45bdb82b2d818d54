"""What keeps a full queue cheap: requests are refused before their body is read, and before their prompt is made."""

from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Depends, Request

from engine.errors import HeadraceError
from server.http.body import Context
from server.http.disconnect import until_disconnect

T = TypeVar("T")


async def _check_queue(request: Request, context: Context) -> None:
    """Raises QueueFull, or EngineUnavailable."""
    if "last-event-id" not in request.headers:  # the rest of a stream that runs already
        context.check_admission()
        context.check_queue()


# Of routes that generate: FastAPI asks it before it asks for the body.
QUEUE_HAS_ROOM = Depends(_check_queue)


async def prepared(request: Request, context: Context, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which makes a request ready for the engine; canceled if the client goes away.

    Meanwhile the request counts as one that waits: else a burst would be rendered and tokenized, and then refused.
    Raises ClientGone, QueueFull, EngineUnavailable, and what `work` raises.
    """
    try:
        context.check_queue()
    except HeadraceError:
        work.close()  # it has not begun
        raise
    with context.preparing():
        return await until_disconnect(work, request.receive)
