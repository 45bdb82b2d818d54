"""Error responses, in the format of the API that the path belongs to."""

from collections.abc import Mapping

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import Scope

from engine.errors import Shed
from server.errors import ErrorReply, NotServed
from server.metrics.request_record import current_record
from server.paths import route_path
from server.protocols.path_forms import form_of


def reply_to(error: Exception, request_id: str, path: str = "") -> ErrorReply:
    """Return the error reply for an exception, and record the error in the request's record. path: the route's, whose
    API may have other statuses."""
    reply = form_of(path).reply(error, request_id)
    if (record := current_record()) is not None:
        record.note_error(reply.status, reply.code or reply.type, error.reason if isinstance(error, Shed) else None)
    return reply


def error_response(reply: ErrorReply, request_id: str, scope: Scope) -> Response:
    return form_of(route_path(scope)).error(reply, request_id)


def add_refusals(router: APIRouter, reasons: Mapping[tuple[str, str], str]) -> None:
    """Add a route that raises NotServed for each method and path in `reasons`, with the given reason in its message."""

    async def refuse(request: Request) -> Response:
        reason = reasons[request.method, request.scope["route"].path]
        raise NotServed(f"{request.scope['path']} is not served here: {reason}")

    for method, path in reasons:
        router.add_api_route(path, refuse, methods=[method], include_in_schema=False)
