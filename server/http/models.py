"""Which model a request is for: a dependency that every route with a `model` in its body has."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

from fastapi import Depends, Request

from engine.errors import QueueTimeout
from server.errors import AnswerTimeout
from server.http.body import Context, context_of, json_body
from server.http.disconnect import until_disconnect
from server.http.waiting_stream import WaitingStream, may_wait_as_stream
from server.metrics.request_record import current_record
from server.schemas.base import StrictModel
from server.served.model import ServedModel

_LOOK_INTERVAL_S = 1.0  # at how far loading has come, for those who wait for it

B = TypeVar("B", bound=StrictModel)


def asked_model(
    body_type: type[B], check: Callable[[Request, B, ServedModel], Awaitable[object]] | None = None
) -> Callable[..., Awaitable[ServedModel]]:
    """A dependency: the served model that a body of this type names. It raises ModelNotFound, and as `entered`
    and json_body.

    check: of what needs no engine. Where the model is not loaded it is called first, and raises for a request for which
    it need not be.
    """

    async def find(
        request: Request, context: Context, body: Annotated[B, Depends(json_body(body_type))]
    ) -> ServedModel:
        model = context.models.find(body.model)  # type: ignore[attr-defined]
        if getattr(body, "resumable", False) and request.headers.get("last-event-id"):
            return model  # for the rest of a stream, which needs no engine of its own
        if check is not None and not model.is_loaded:
            await check(request, body, model)
        return await entered(
            request,
            model,
            is_stream=bool(getattr(body, "stream", False)),
            timeout_s=getattr(body, "timeout", None),
            waits_on=getattr(body, "service_tier", None) == "flex",
        )

    return find


async def entered(
    request: Request,
    model: ServedModel,
    *,
    is_stream: bool = False,
    timeout_s: float | None = None,
    waits_on: bool = False,
) -> ServedModel:
    """The model, which is loaded and stays so until the request is over. Logs and usage say that it is for this one.

    is_stream: the client is told in comments how far loading has come, where it takes longer than a silence may be.
    timeout_s: the request's own time, from its arrival; None is --request-timeout.

    waits_on: whether --queue-timeout is none of its limits.

    Raises ClientGone, QueueFull, QueueTimeout, ModelNotLoaded, EngineUnavailable, AnswerTimeout, and InvalidRequest.
    """
    record = current_record()
    if record is not None:
        record.model_name = model.name
    if model.loader is not None:
        telling = asyncio.create_task(_tell(request, model)) if is_stream else None
        try:
            timeout_s = timeout_s or model.config.request_timeout
            await until_disconnect(_in_time(request, model, timeout_s, waits_on), request.receive)
        finally:
            if telling is not None:
                telling.cancel()
                await asyncio.gather(telling, return_exceptions=True)
    if model.adapter is not None:
        await context_of(request).models.adapters.read(model.name, model)
    return model


async def _in_time(request: Request, model: ServedModel, timeout_s: float | None, waits_on: bool) -> None:
    queue_timeout_s = None if waits_on else model.config.queue_timeout
    limit_s = min((each for each in (timeout_s, queue_timeout_s) if each is not None), default=None)
    try:
        async with asyncio.timeout_at(None if limit_s is None else request.state.arrival_s + limit_s) as limit:
            await model.acquire(current_record())  # the loop's clock is time.monotonic(), as that of arrivals
    except TimeoutError:
        if not limit.expired():
            raise
        if limit_s == timeout_s:
            raise AnswerTimeout(
                f"the request's timeout of {timeout_s:g} s was over before its model was loaded; give it more"
            ) from None
        raise QueueTimeout(
            f"the model was not loaded within {queue_timeout_s:g} s (--queue-timeout); try again later", retry_after_s=5
        ) from None


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
