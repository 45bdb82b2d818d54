"""acquire_model: loads a request's model on demand, and keeps it loaded until the request ends."""

import asyncio
import time
from collections.abc import Callable

from fastapi import Request

from engine.errors import QueueTimeout
from server.errors import AnswerTimeout
from server.http.body import context_of
from server.http.disconnect import until_disconnect
from server.http.waiting_stream import WaitingStream
from server.metrics.request_record import current_record
from server.served.model import ServedModel

_POLL_INTERVAL_S = 1.0  # between two looks at the progress of loading


async def acquire_model(
    request: Request,
    model: ServedModel,
    *,
    loading_error: Callable[[bytes], bytes] | None = None,
    timeout_s: float | None = None,
    is_patient: bool = False,
) -> None:
    """Load the model if necessary, keep it loaded until the request ends, and name it in the request's record.

    loading_error: for a stream, makes the event for an error; the stream then gets progress comments if loading takes
    long. timeout_s: the request's own timeout, from its arrival; None for --request-timeout. is_patient: whether
    --queue-timeout does not apply.

    Raises ClientGone, QueueFull, QueueTimeout, ModelNotLoaded, EngineUnavailable, AnswerTimeout, and InvalidRequest.
    """
    record = current_record()
    if record is not None:
        record.model_name = model.name
    if model.loader is not None:
        comments = None if loading_error is None else asyncio.create_task(_comment(request, model, loading_error))
        try:
            timeout_s = timeout_s or model.config.request_timeout
            await until_disconnect(_load_in_time(request, model, timeout_s, is_patient), request.receive)
        finally:
            if comments is not None:
                comments.cancel()
                await asyncio.gather(comments, return_exceptions=True)
    if model.adapter is not None:
        await context_of(request).models.adapters.read(model.name, model)


async def _load_in_time(request: Request, model: ServedModel, timeout_s: float | None, is_patient: bool) -> None:
    queue_timeout_s = None if is_patient else model.config.queue_timeout
    limit_s = min((each for each in (timeout_s, queue_timeout_s) if each is not None), default=None)
    try:
        async with asyncio.timeout_at(None if limit_s is None else request.state.arrival_s + limit_s) as limit:
            await model.acquire(current_record())  # the loop's clock is time.monotonic(), as for arrival_s
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


async def _comment(request: Request, model: ServedModel, loading_error: Callable[[bytes], bytes]) -> None:
    """Send progress comments while the model is loaded, so that no proxy closes a silent connection."""
    interval_s = model.config.sse_ping_interval
    await asyncio.sleep(interval_s)
    stream: WaitingStream = await request.state.begin_waiting(loading_error)
    sent, sent_s = "", 0.0
    while True:
        status = model.client.status()
        text = f"{model.name}: {status.reason or 'waiting for its turn'}"
        if text != sent or time.monotonic() - sent_s >= interval_s:
            sent, sent_s = text, time.monotonic()
            await stream.comment(text)
        await asyncio.sleep(min(interval_s, _POLL_INTERVAL_S))
