"""Which model a request is for: a dependency that every route with a `model` in its body has."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

from fastapi import Depends, Request

from server.http.body import Context, json_body
from server.http.disconnect import until_disconnect
from server.http.waiting_stream import WaitingStream, may_wait_as_stream
from server.metrics.request_record import current_record
from server.schemas.base import StrictModel
from server.served.model import ServedModel

_LOOK_INTERVAL_S = 1.0  # at how far loading has come, for those who wait for it

B = TypeVar("B", bound=StrictModel)


def asked_model(body_type: type[B]) -> Callable[..., Awaitable[ServedModel]]:
    """A dependency: the served model that a body of this type names. It raises ModelNotFound, and as `entered`
    and json_body."""

    async def find(
        request: Request, context: Context, body: Annotated[B, Depends(json_body(body_type))]
    ) -> ServedModel:
        model = context.models.find(body.model)  # type: ignore[attr-defined]
        return await entered(request, model, is_stream=bool(getattr(body, "stream", False)))

    return find


async def entered(request: Request, model: ServedModel, *, is_stream: bool = False) -> ServedModel:
    """The model, which is loaded and stays so until the request is over. Logs and usage say that it is for this one.

    is_stream: the client is told in comments how far loading has come, where it takes longer than a silence may be.
    Raises ClientGone, QueueFull, ModelNotLoaded and EngineUnavailable.
    """
    record = current_record()
    if record is not None:
        record.model_name = model.name
    if model.residence is not None:
        telling = asyncio.create_task(_tell(request, model)) if is_stream else None
        try:
            await until_disconnect(model.enter(record), request.receive)
        finally:
            if telling is not None:
                telling.cancel()
                await asyncio.gather(telling, return_exceptions=True)
    return model


async def _tell(request: Request, model: ServedModel) -> None:
    """Send comments about the model's loading, once a proxy could take the silence for the end."""
    route: str = request.scope["route"].path
    if not may_wait_as_stream(route):
        return
    interval_s = model.config.sse_ping_interval
    await asyncio.sleep(interval_s)
    stream: WaitingStream = await request.state.begin_waiting(route)
    said, said_s = "", 0.0
    while True:
        status = model.client.status()
        text = f"{model.name}: {status.reason or 'waiting for its turn'}"
        if text != said or time.monotonic() - said_s >= interval_s:
            said, said_s = text, time.monotonic()
            await stream.comment(text)
        await asyncio.sleep(min(interval_s, _LOOK_INTERVAL_S))
