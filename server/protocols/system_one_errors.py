"""System One's errors: OpenAI's error object, and beside it the fault's place as its clients look for it."""

import re

import msgspec
from starlette.responses import Response

from server.errors import ErrorReply

REQUEST_ID_HEADER = "x-typesafe-request-id"
INVALID_STATUS = 422  # of a body that is refused; its clients repeat any 5xx

_PART = re.compile(r"\[(\d+)\]|[^.\[\]]+")


def system_one_error(reply: ErrorReply, request_id: str) -> Response:
    content: dict[str, object] = {"error": reply.error_object()}
    if reply.status == INVALID_STATUS:
        location = _location(reply.param or "") if reply.location is None else reply.location
        fault = {"loc": ["body", *location], "msg": reply.message, "type": reply.code or reply.type}
        content["detail"] = [fault]
    headers = {**reply.headers, REQUEST_ID_HEADER: request_id}
    return Response(msgspec.json.encode(content), reply.status, headers, media_type="application/json")


def _location(path: str) -> list[str | int]:
    """Return the keys and indices of a path such as questions.tone.criteria[0], whose keys have no dots or brackets."""
    return [int(match[1]) if match[1] else match[0] for match in _PART.finditer(path)]
