"""HTTP routes of the endpoints: one loop registers them, and one function handles all their requests."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from server.endpoints.binding.endpoint import Endpoint, EndpointRequest
from server.endpoints.binding.registry import ENDPOINTS, SUITABLE_PATHS
from server.http.body import context_of, read_body
from server.http.disconnect import until_disconnect
from server.http.idempotency import answered_once, body_digest, idempotency_key
from server.http.models import acquire_model
from server.http.resume import resumed_by_header
from server.metrics.request_record import current_record


def endpoint_router() -> APIRouter:
    router = APIRouter()
    for endpoint in ENDPOINTS:
        router.add_api_route(
            endpoint.path,
            _route(endpoint),
            methods=["POST"],
            name=endpoint.name,
            tags=[endpoint.tag],
            description=endpoint.summary,
            response_model=None,
        )
    return router


def _route(endpoint: Endpoint[Any]) -> Callable[[Request], Awaitable[Response]]:
    async def respond(request: Request) -> Response:
        if (record := current_record()) is not None:
            record.span_operation = endpoint.span_operation
        key = idempotency_key(request)
        if key is None:
            return await _answer(endpoint, request, await read_body(request, endpoint.body))
        body, digest = await read_body(request, lambda given: (endpoint.body(given), body_digest(given)))
        if record is not None:  # an answer that is repeated never comes to acquire_model
            record.model_name = endpoint.model(body, context_of(request).models).name
        return await answered_once(request, key, digest, lambda: _answer(endpoint, request, body))

    return respond


async def _answer(endpoint: Endpoint[Any], request: Request, body: Any) -> Response:
    context = context_of(request)
    model = endpoint.model(body, context.models)
    if endpoint.is_resumable and body.resumable and (stream := resumed_by_header(request)) is not None:
        return stream  # the rest of it, which needs no engine
    head = EndpointRequest(
        context=context,
        model=model,
        capability=endpoint.capability,
        suitable=SUITABLE_PATHS,
        owner=request.state.owner,
        id=request.state.request_id,
        arrival_s=request.state.arrival_s,
    )
    if endpoint.needs_model(body, model):
        await endpoint.check_before_loading(body, head)
        await acquire_model(
            request,
            model,
            loading_error=endpoint.loading_error if getattr(body, "stream", False) else None,
            timeout_s=getattr(body, "timeout", None),
            is_patient=getattr(body, "service_tier", None) == "flex",
        )
    work = await until_disconnect(endpoint.prepare(body, head), request.receive)
    return await work.respond(request)
