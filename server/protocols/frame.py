"""Framing of streamed events, and AnswerFormatter, the interface of each protocol's formatter."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from server.errors import ErrorReply
from server.generation.generation import Generation

_encode = msgspec.json.Encoder().encode


def frame(message: Any) -> bytes:
    """Return the message as one server-sent event. JSON escapes line breaks, so it is always one data line."""
    return b"data: " + _encode(message) + b"\n\n"


@dataclass(frozen=True, slots=True)
class StreamForm:
    """Media type, ping and end mark of a protocol's streams."""

    media_type: str
    ping: bytes  # sent when nothing else is; empty if the protocol has nothing that clients skip
    end: bytes  # after the last event, also after an error; empty for none


OPENAI_STREAM = StreamForm("text/event-stream", b": ping\n\n", b"data: [DONE]\n\n")


def openai_loading_error(body: bytes) -> bytes:
    """Return the error event and end mark of a stream whose model failed to load. body: the error response's body."""
    return b"data: " + body + b"\n\ndata: [DONE]\n\n"


def openai_error(reply: ErrorReply) -> bytes:
    """Return the event for an error. OpenAI's clients raise an APIError at an event with a truthy `error`."""
    return b"data: " + reply.body() + b"\n\n"


class AnswerFormatter(Protocol):
    """Formats one request's generation as a response or a stream of the protocol."""

    @property
    def stream_form(self) -> StreamForm: ...

    async def collect(self, generation: Generation) -> Any:
        """Return the whole response, once all choices have ended."""

    def events(self, generation: Generation) -> AsyncGenerator[bytes, None]:
        """Yield the events of the stream, the first one not before the generation's first delta."""

    def broken(self, reply: ErrorReply) -> bytes:
        """Return the event that ends a stream after an error."""
