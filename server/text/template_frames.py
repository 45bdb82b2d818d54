"""What the server and the processes that run templates say to each other: a kind, a length, and as many bytes.

To a process goes marshal's form of (source, variables), which takes any number and any text that JSON can hold; the
process trusts the server. Back comes text alone, which nobody has to trust.
"""

import enum
import socket
import struct

_HEAD = struct.Struct("<BI")
MAX_REPLY_BYTES = 256 << 20  # the longest text that a template may make, in UTF-8, is half of it


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
    channel.sendall(_HEAD.pack(kind, len(payload)))
    channel.sendall(payload)


def receive_frame(channel: socket.socket) -> tuple[Kind, bytearray]:
    """The next frame. Raises EOFError if the other end is closed, and what the socket raises."""
    kind, size = _HEAD.unpack(_receive(channel, _HEAD.size))
    if size > MAX_REPLY_BYTES:
        raise EOFError(f"a frame of {size} bytes was announced")
    return Kind(kind), _receive(channel, size)


def _receive(channel: socket.socket, size: int) -> bytearray:
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        received = channel.recv_into(view)
        if received == 0:
            raise EOFError("the other end is closed")
        view = view[received:]
    return buffer
