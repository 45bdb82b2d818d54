"""Framing of streamed events, and AnswerFormatter, the interface of each protocol's formatter."""

import uuid
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from server.errors import ErrorReply
from server.generation.generation import Generation

_encode = msgspec.json.Encoder().encode
_MARK = uuid.uuid4().hex  # a text that no message has


def frame(message: Any) -> bytes:
    """Return the message as one server-sent event. JSON escapes line breaks, so it is always one data line."""
    return b"data: " + _encode(message) + b"\n\n"


class TextFrames:
    """Frames of one choice's messages that differ only in a text, which is all that is encoded for each of them."""

    def __init__(self, make: Callable[[int, str], Any]) -> None:
        """make: returns the message for a choice and a text. The text is a value of it, perhaps several times."""
        self._make = make
        self._around: dict[int, list[bytes]] = {}  # the bytes before, between and after the text, by choice

    def frame(self, index: int, text: str) -> bytes:
        """Return `frame(make(index, text))`."""
        around = self._around.get(index)
        if around is None:
            around = self._around[index] = frame(self._make(index, _MARK)).split(_encode(_MARK))
        return _encode(text).join(around)


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
