"""run_body: runs a request body without a client, and retries while the queue is full or the engine is unavailable."""

import asyncio
import math
import uuid
from typing import Any

import msgspec

from engine.client.open_streams import MAX_DEATHS
from engine.errors import EngineDied, EngineStopped, EngineUnavailable, Shed
from server.context import ServerContext
from server.endpoints.binding.endpoint import EndpointRequest
from server.endpoints.binding.registry import BATCH_ENDPOINTS, SUITABLE_PATHS
from server.errors import ErrorReply, ModelFailed, RateLimited, TokensLimited
from server.generation.terms import serve_as_batch
from server.jobs.answers import BodyAnswer
from server.jobs.environment import Sleep
from server.keys.caller import Caller, set_current_caller
from server.metrics.request_record import RequestRecord, set_current_record
from server.protocols.path_forms import form_of

_MIN_WAIT_S, _MAX_WAIT_S = 0.05, 30.0


async def run_body(
    context: ServerContext, caller: Caller, endpoint: str, body: dict[str, Any], sleep: Sleep = asyncio.sleep
) -> BodyAnswer:
    """Return the endpoint's answer to the body, run for `caller` at batch priority.

    Temporary errors are retried and never returned: a full queue, a model being loaded, an engine being restarted, a
    spent budget. A request that was running when two engines died is answered with 503, as is one to a model that its
    operator must change first, and one that needs more tokens than the caller's key may use in a minute with 429.
    Raises EngineStopped if the server shuts down first; the body must then be run again. Must be called in a task of
    its own, since it sets the task's current caller.

    sleep: awaited before each retry.
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
            if num_deaths >= MAX_DEATHS:  # the body may be the cause, and the server gives up after some more deaths
                return _refusal(form_of(endpoint).reply(error, request_id), request_id, endpoint)
        except (Shed, EngineUnavailable, RateLimited) as error:
            # Only Shed may know when there is room.
            wait_s = min(_MAX_WAIT_S, max(2 * wait_s, math.ceil(getattr(error, "retry_after_s", None) or 0)))
        await sleep(wait_s)


def _may_pass(error: Exception) -> bool:
    match error:
        case ModelFailed(retry_after_s=None) | TokensLimited(retry_after_s=None):  # no minute allows that many tokens
            return False
    return isinstance(error, Shed | EngineUnavailable | RateLimited)


def _refusal(reply: ErrorReply, request_id: str, endpoint: str) -> BodyAnswer:
    return BodyAnswer(request_id, reply.status, bytes(form_of(endpoint).error(reply, request_id).body))


async def _run_once(
    context: ServerContext, caller: Caller, endpoint: str, body: dict[str, Any], request_id: str
) -> BodyAnswer:
    """Make one attempt to run the body, and return the answer or error reply. Raises temporary errors, to be
    retried."""
    record = RequestRecord(request_id, "POST", lambda record: _count(context, record), context.models.only_name)
    record.route = f"batch {endpoint}"
    record.key_name, record.is_usage, record.is_batch_line = caller.name, True, True
    set_current_record(record)
    try:
        answer, headers = await _answer_body(context, caller, endpoint, body, record)
        record.status = 200
        return BodyAnswer(request_id, 200, answer, headers)
    except Exception as error:  # the boundary of a line, as of a route
        reply = form_of(endpoint).reply(error, request_id)
        record.status = reply.status
        record.note_error(reply.status, reply.code or reply.type, error.reason if isinstance(error, Shed) else None)
        if _may_pass(error):
            record.is_usage = record.has_started  # a request that waits was not refused
            raise
        return _refusal(reply, request_id, endpoint)
    finally:
        record.release()


async def _answer_body(
    context: ServerContext, caller: Caller, path: str, raw: dict[str, Any], record: RequestRecord
) -> tuple[bytes, dict[str, str]]:
    """Return the answer's JSON and headers. Raises the errors that the endpoint would report.

    path: path of a batchable endpoint. record: the request's record; its `model_name` is set here.
    """
    endpoint = BATCH_ENDPOINTS[path]
    body = endpoint.body(raw)
    model = endpoint.model(body, context.models)
    record.model_name = model.name
    request = EndpointRequest(
        context=context,
        model=model,
        capability=endpoint.capability,
        suitable=SUITABLE_PATHS,
        owner=caller.owner,
        id=record.request_id,
        arrival_s=record.arrival_s,
        is_batch=True,
    )
    await endpoint.check_before_loading(body, request)
    async with model.in_use(is_batch=True):
        if model.adapter is not None:
            await context.models.adapters.read(model.name, model)
        work = await endpoint.prepare(body, request)
        return msgspec.json.encode(await work.collect()), work.headers


def _count(context: ServerContext, record: RequestRecord) -> None:
    context.keys.count(record)
    context.history.on_over(record)
    context.models.get_or_default(record.model_name).live.requests.discard(record)
