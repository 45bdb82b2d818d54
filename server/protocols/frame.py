"""Frames of streams: server-sent events, pings and end marks of each protocol."""

from dataclasses import dataclass
from typing import Any

import msgspec

from server.errors import ErrorReply

_encode = msgspec.json.Encoder().encode


def frame(message: Any) -> bytes:
    """Return one event. JSON escapes line breaks, so a message is always one data line."""
    return b"data: " + _encode(message) + b"\n\n"


@dataclass(frozen=True, slots=True)
class StreamForm:
    """Media type, ping and end mark of a protocol's streams."""

    media_type: str
    ping: bytes  # sent when nothing else is; empty if the protocol has nothing that clients skip
    end: bytes  # after the last event, also after an error; empty for none


OPENAI_STREAM = StreamForm("text/event-stream", b": ping\n\n", b"data: [DONE]\n\n")


def openai_loading_error(body: bytes) -> bytes:
    """Return the end of a stream that began while its model was loaded. body: of the error's answer."""
    return b"data: " + body + b"\n\ndata: [DONE]\n\n"


def openai_error(reply: ErrorReply) -> bytes:
    """Return an error as an event. OpenAI's clients raise an APIError at an event with a truthy `error`."""
    return b"data: " + reply.body() + b"\n\n"
