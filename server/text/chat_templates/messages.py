"""Messages between the server and the processes that run templates: frames whose first byte is the message kind.

A request is (source, variables) in marshal's format, which can hold any number and text of JSON; the process trusts the
server. A reply is only text, so the server need not trust the process.
"""

import enum
import socket
from collections.abc import Mapping

import msgspec

from engine.child_processes import frames
from server.text.chat_templates.runner import TemplateOverrun, TemplateRefusal, TemplateUnreadable


class MessageKind(enum.IntEnum):
    STARTED = 0
    INSPECT = 1  # variables: None
    RENDER = 2
    FACTS = 3  # JSON: lists, by the names of the fields of TemplateFacts
    TEXT = 4
    UNREADABLE = 5  # this and the next two: the exception's message
    REFUSAL = 6
    OVERRUN = 7


FAILURES: Mapping[MessageKind, type[Exception]] = {
    MessageKind.UNREADABLE: TemplateUnreadable,
    MessageKind.REFUSAL: TemplateRefusal,
    MessageKind.OVERRUN: TemplateOverrun,
}


def send_message(channel: socket.socket, kind: MessageKind, payload: bytes) -> None:
    frames.send_frame(channel, payload, prefix=bytes((kind,)))


def receive_message(channel: socket.socket) -> tuple[MessageKind, bytearray]:
    """Return the next message. Raises EOFError if the other end is closed or sends an invalid frame, and
    TimeoutError."""
    try:
        frame = frames.receive_frame(channel)
    except msgspec.DecodeError as error:
        raise EOFError(str(error)) from error
    if not frame:
        raise EOFError("the other end is closed")
    kind = MessageKind(frame[0])
    del frame[:1]
    return kind, frame
