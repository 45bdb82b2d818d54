"""Frames of streams: server-sent events, and what each protocol's streams have between and after them."""

from dataclasses import dataclass
from typing import Any

import msgspec

from server.errors import ErrorReply

_encode = msgspec.json.Encoder().encode


def frame(message: Any) -> bytes:
    """One event. JSON escapes line breaks, so a message is always one data line."""
    return b"data: " + _encode(message) + b"\n\n"


@dataclass(frozen=True, slots=True)
class StreamForm:
    """What a protocol's streams have in common, whatever they carry."""

    media_type: str
    ping: bytes  # sent in silences; empty where the protocol has nothing that clients skip
    end: bytes  # after the last event, an error's too; empty where there is no such mark


OPENAI_STREAM = StreamForm("text/event-stream", b": ping\n\n", b"data: [DONE]\n\n")


def openai_loading_error(body: bytes) -> bytes:
    """Return the end of a stream that began while its model was loaded. body: of the error's answer."""
    return b"data: " + body + b"\n\ndata: [DONE]\n\n"


def openai_error(reply: ErrorReply) -> bytes:
    """OpenAI's clients raise an APIError at an event with a truthy `error`."""
    return b"data: " + reply.body() + b"\n\n"
