"""WaitingStream: a stream that starts while its model is still being loaded, before its content is known."""

from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import Message, Send


class WaitingStream:
    """Replaces a request's ASGI `send` once its stream has started with comments. The 200 is sent by then, so an error
    response of the application becomes an event."""

    def __init__(self, send: Send, error_event: Callable[[bytes], bytes]) -> None:
        """error_event: makes the event that ends the stream from the body of an error response."""
        self._send = send
        self._error_event = error_event
        self._is_stream = False  # whether the application's answer is a stream
        self._body = b""  # of an answer that is not a stream

    async def begin(self) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        headers.append((b"x-accel-buffering", b"no"))
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def comment(self, text: str) -> None:
        line = " ".join(text.split())
        await self._send({"type": "http.response.body", "body": f": {line}\n\n".encode(), "more_body": True})

    async def forward(self, message: Message) -> None:
        """Send an ASGI message of the application: its head is dropped, and the body of an error becomes an event."""
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
