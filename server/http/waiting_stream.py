"""WaitingStream: a stream that begins before it is known what it will hold, since its model is still being loaded."""

from collections.abc import Callable, Mapping

import msgspec
from starlette.datastructures import Headers
from starlette.types import Message, Send


def _openai(error: bytes) -> bytes:
    return b"data: " + error + b"\n\ndata: [DONE]\n\n"


def _messages(error: bytes) -> bytes:
    return b"event: error\ndata: " + error + b"\n\n"


def _responses(error: bytes) -> bytes:
    told = msgspec.json.decode(error)["error"]
    event = {"type": "error", "sequence_number": 0, **{key: told[key] for key in ("code", "message", "param")}}
    return b"event: error\ndata: " + msgspec.json.encode(event) + b"\n\n"


# By the route: an error's body as the event that ends a stream. Others have no comments that clients skip.
_ERROR_EVENTS: Mapping[str, Callable[[bytes], bytes]] = {
    "/v1/chat/completions": _openai,
    "/v1/completions": _openai,
    "/v1/messages": _messages,
    "/v1/responses": _responses,
}


def may_wait_as_stream(route: str) -> bool:
    return route in _ERROR_EVENTS


class WaitingStream:
    """Stands between the application and its client from the first comment on: the head is sent, and what the
    application answers later goes on behind it, an error as an event."""

    def __init__(self, send: Send, route: str) -> None:
        self._send = send
        self._error_event = _ERROR_EVENTS[route]
        self._is_stream = False  # what the application answers
        self._body = b""  # of an answer that is none

    async def begin(self) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        headers.append((b"x-accel-buffering", b"no"))
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def comment(self, text: str) -> None:
        line = " ".join(text.split())
        await self._send({"type": "http.response.body", "body": f": {line}\n\n".encode(), "more_body": True})

    async def forward(self, message: Message) -> None:
        """Take a message of the application's."""
        if message["type"] == "http.response.start":
            content_type = Headers(raw=message["headers"]).get("content-type", "")
            self._is_stream = message["status"] == 200 and content_type.startswith("text/event-stream")
            return
        if self._is_stream or message["type"] != "http.response.body":
            await self._send(message)
            return
        self._body += message.get("body", b"")
        if not message.get("more_body", False):
            await self._send({"type": "http.response.body", "body": self._error_event(self._body), "more_body": False})
