"""Errors as responses, in the form of the protocol of their paths."""

from starlette.responses import Response
from starlette.types import Scope

from engine.errors import Shed
from server.errors import ErrorReply, describe_error
from server.metrics.request_record import current_record
from server.paths import route_path
from server.protocols.path_forms import form_of


def reply_to(error: Exception, request_id: str) -> ErrorReply:
    """Return the reply to an exception, and note it in the request's record."""
    reply = describe_error(error, request_id)
    if (record := current_record()) is not None:
        record.note_error(reply.status, reply.code or reply.type, error.reason if isinstance(error, Shed) else None)
    return reply


def error_response(reply: ErrorReply, request_id: str, scope: Scope) -> Response:
    return form_of(route_path(scope)).error(reply, request_id)
