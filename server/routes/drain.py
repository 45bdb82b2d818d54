"""POST and DELETE /drain: accept nothing new and finish running requests, without ending the process."""

import asyncio
import logging
import time

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from engine.errors import InvalidRequest
from engine.wording import counted
from server.context import ServerContext
from server.http.body import Context
from server.http.disconnect import until_disconnect
from server.http.operators import OPERATORS_ONLY
from server.http.query import ignored_query, query_int

logger = logging.getLogger(__name__)

router = APIRouter(tags=["Operations"], dependencies=[OPERATORS_ONLY])

_MAX_WAIT_S = 3600
_POLL_S = 0.05


@router.post("/drain")
async def drain(request: Request, context: Context) -> JSONResponse:
    """Accept no new requests. With `wait=S`, respond when all running requests are finished, or after S seconds."""
    wait_s = query_int(request, "wait") or 0
    if wait_s > _MAX_WAIT_S:
        raise InvalidRequest(f"wait is {wait_s} seconds; it may be {_MAX_WAIT_S} at most", param="wait")
    if not context.drain.is_active:
        are_open = counted(context.models.num_unfinished, "request is open", "requests are open")
        logger.warning("draining at an operator's request: %s", are_open)
    context.drain.start(time.monotonic())
    await until_disconnect(_finished(context, wait_s), request.receive)
    return _state(request, context)


async def _finished(context: ServerContext, wait_s: float) -> None:
    """Wait until no request is unfinished, the drain is canceled, or `wait_s` has passed."""
    end_s = time.monotonic() + wait_s
    while context.drain.is_active and context.models.num_unfinished and time.monotonic() < end_s:
        await asyncio.sleep(_POLL_S)


@router.delete("/drain")
async def end_drain(request: Request, context: Context) -> JSONResponse:
    """Accept requests again."""
    was_active = context.drain.is_active
    context.drain.cancel()
    if was_active:
        logger.warning("accepting requests again at an operator's request")
    return _state(request, context)


def _state(request: Request, context: ServerContext) -> JSONResponse:
    is_active, num_unfinished = context.drain.is_active, context.models.num_unfinished
    state = {
        "status": "draining" if is_active else "ok",
        "drained": is_active and not num_unfinished,
        "unfinished": num_unfinished,
    }
    honored = {"wait"} if request.method == "POST" else set()
    return JSONResponse(state, headers=ignored_query(request, *honored))
