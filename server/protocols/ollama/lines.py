"""Ollama's streams: one JSON object per line, without pings or an end mark."""

from typing import Any

import msgspec
from starlette.responses import Response

from server.errors import ErrorReply
from server.protocols.frame import StreamForm

OLLAMA_STREAM = StreamForm("application/x-ndjson", b"", b"")

_encode = msgspec.json.Encoder().encode


def line(message: Any) -> bytes:
    return _encode(message) + b"\n"


def ollama_error(reply: ErrorReply, _request_id: str) -> Response:
    return Response(error_object(reply), reply.status, reply.headers, media_type="application/json")


def error_object(reply: ErrorReply) -> bytes:
    """Return the error object, which is the same in a response and in a stream."""
    return _encode({"error": reply.message})
