"""Messages between the server and the processes that run templates: frames that begin with a byte for their kind.

To a process goes marshal's form of (source, variables), which takes any number and any text that JSON can hold; the
process trusts the server. Back comes text alone, which nobody has to trust.
"""

import enum
import socket

import msgspec

from engine.child_processes import frames


class Kind(enum.IntEnum):
    STARTED = 0
    INSPECT = 1  # variables: None
    RENDER = 2
    FACTS = 3  # JSON: lists by the names of the fields of TemplateFacts
    TEXT = 4
    UNREADABLE = 5  # this and the next two: the exception's message
    REFUSAL = 6
    OVERRUN = 7


def send_frame(channel: socket.socket, kind: Kind, payload: bytes) -> None:
    frames.send_frame(channel, payload, prefix=bytes((kind,)))


def receive_frame(channel: socket.socket) -> tuple[Kind, bytearray]:
    """Return the next frame. Raises EOFError if the other end is closed or sends no frame, and TimeoutError."""
    try:
        frame = frames.receive_frame(channel)
    except msgspec.DecodeError as error:
        raise EOFError(str(error)) from error
    if not frame:
        raise EOFError("the other end is closed")
    kind = Kind(frame[0])
    del frame[:1]
    return kind, frame
