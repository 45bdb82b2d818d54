"""Anthropic's errors: the error object in responses and in events of streams."""

import contextlib
from collections.abc import Iterator, Mapping

import msgspec
from starlette.responses import Response

from engine.errors import ContextLengthExceeded
from server.errors import ErrorReply

# A model that is loading counts as overloaded: the client tries again after the time in retry-after.
_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def error_body(reply: ErrorReply, request_id: str) -> bytes:
    """Return the error object. The server's error code is in `details`, where Anthropic's own codes are."""
    kind = _TYPES.get(reply.status, "invalid_request_error" if reply.status < 500 else "api_error")
    error: dict[str, object] = {"type": kind, "message": reply.message}
    if reply.code is not None:
        error["details"] = {"error_code": reply.code}
    return msgspec.json.encode({"type": "error", "error": error, "request_id": request_id})


def messages_error(reply: ErrorReply, request_id: str) -> Response:
    return Response(error_body(reply, request_id), reply.status, reply.headers, media_type="application/json")


def messages_loading_error(body: bytes) -> bytes:
    """Return the error event that ends a stream whose model failed to load. body: the error response's body."""
    return b"event: error\ndata: " + body + b"\n\n"


@contextlib.contextmanager
def anthropic_words() -> Iterator[None]:
    """Reword a ContextLengthExceeded that is raised inside the `with` block as Anthropic's error, whose numbers agents
    parse to shorten the prompt."""
    try:
        yield
    except ContextLengthExceeded as error:
        if error.num_tokens is not None:
            shorter = f"prompt is too long: {error.num_tokens} tokens > {error.limit} maximum; shorten it"
            if error.is_at_least:
                shorter += f" (it has at least {error.num_tokens} tokens, and was not counted to its end)"
            error.args = (shorter, *error.args[1:])
        raise
