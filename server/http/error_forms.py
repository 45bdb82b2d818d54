"""error_response: an error in the form of the protocol whose route it befell."""

from collections.abc import Callable

from starlette.responses import Response
from starlette.types import Scope

from engine.errors import Shed
from server.errors import ErrorReply, describe
from server.metrics.request_record import current_record
from server.paths import route_path
from server.protocols.messages.errors import messages_error
from server.protocols.ollama.lines import ollama_error

ErrorForm = Callable[[ErrorReply, str], Response]  # of a reply and the request's id

# By the path's beginning; all other paths, unknown ones too, are OpenAI's.
_FORMS: tuple[tuple[str, ErrorForm], ...] = (("/v1/messages", messages_error), ("/api/", ollama_error))
FORM_PREFIXES = tuple(prefix for prefix, _ in _FORMS)


def told(error: Exception, request_id: str) -> ErrorReply:
    """The reply to an exception, as `describe` has it, noted in the request's record."""
    reply = describe(error, request_id)
    if (record := current_record()) is not None:
        record.note_error(reply.status, reply.code or reply.type, error.reason if isinstance(error, Shed) else None)
    return reply


def error_response(reply: ErrorReply, request_id: str, scope: Scope) -> Response:
    path = route_path(scope)
    for prefix, form in _FORMS:
        if path.startswith(prefix):
            return form(reply, request_id)
    return reply.response()
