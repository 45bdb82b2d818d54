"""run_body: answers the body of a request in the background, and waits for room and for an engine meanwhile."""

import asyncio
import math
import time
import uuid
from typing import Any

from engine.client.open_streams import MAX_DEATHS
from engine.errors import EngineDied, EngineStopped, EngineUnavailable, Shed
from server.batches.execution import answer_body
from server.context import ServerContext
from server.errors import RateLimited, TokensLimited, describe_error
from server.generation.terms import serve_as_batch
from server.jobs.answers import BodyAnswer
from server.jobs.environment import Sleep
from server.keys.caller import Caller, set_current_caller
from server.metrics.request_record import RequestRecord, set_current_record

_PASSING = (Shed, EngineUnavailable, RateLimited)
_MIN_WAIT_S, _MAX_WAIT_S = 0.05, 30.0


async def run_body(
    context: ServerContext, caller: Caller, endpoint: str, body: dict[str, Any], sleep: Sleep = asyncio.sleep
) -> BodyAnswer:
    """Return the endpoint's answer to the body, for `caller` and as work for which no client waits.

    Conditions that pass are waited for and never answered: a full queue, a model that is being loaded, an engine that
    is being restarted, a spent budget. A request that two engines were computing when they died is answered with 503,
    and one that needs more tokens than the caller's key may use in a minute with 429. Raises EngineStopped if the
    server ends before; then the body must be run again. Must be called in a task of its own, whose caller it sets.

    sleep: waits before another attempt.
    """
    set_current_caller(caller)
    serve_as_batch()
    num_deaths, wait_s = 0, _MIN_WAIT_S
    while True:
        request_id = f"req_{uuid.uuid4().hex}"
        try:
            return await _run_once(context, caller, endpoint, body, request_id)
        except EngineStopped:
            raise
        except EngineDied as error:
            num_deaths += error.num_deaths
            if (
                num_deaths >= MAX_DEATHS
            ):  # the line may be the cause, and would end the server, which gives up after some deaths
                return _refusal(error, request_id)
        except _PASSING as error:
            if isinstance(error, TokensLimited) and error.retry_after_s is None:  # no minute allows that many
                return _refusal(error, request_id)
            # Only Shed may know when there is room.
            wait_s = min(_MAX_WAIT_S, max(2 * wait_s, math.ceil(getattr(error, "retry_after_s", None) or 0)))
        await sleep(wait_s)


def _refusal(error: Exception, request_id: str) -> BodyAnswer:
    reply = describe_error(error, request_id)
    return BodyAnswer(request_id, reply.status, reply.body())


async def _run_once(
    context: ServerContext, caller: Caller, endpoint: str, body: dict[str, Any], request_id: str
) -> BodyAnswer:
    """Answer the body once, without waiting. Raises errors that pass."""
    record = RequestRecord(request_id, "POST", lambda record: _count(context, record), context.models.only_name)
    record.route = f"batch {endpoint}"
    record.key_name, record.is_usage = caller.name, True
    set_current_record(record)
    try:
        answer, headers = await answer_body(context, endpoint, body, arrival_s=time.monotonic(), request_id=request_id)
        record.status = 200
        return BodyAnswer(request_id, 200, answer, headers)
    except Exception as error:  # the boundary of a line, as of a route
        reply = describe_error(error, request_id)
        record.status = reply.status
        record.note_error(reply.status, reply.code or reply.type, error.reason if isinstance(error, Shed) else None)
        if isinstance(error, _PASSING):
            record.is_usage = record.has_started  # a request that waits was not refused
            raise
        return BodyAnswer(request_id, reply.status, reply.body())
    finally:
        record.release()


def _count(context: ServerContext, record: RequestRecord) -> None:
    context.keys.count(record)
    context.models.get_or_default(record.model_name).live.requests.discard(record)
