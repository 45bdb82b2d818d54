"""Frames: four bytes of length, then the payload; what the engine's process and those that try grammars exchange."""

import socket
import struct

_LENGTH = struct.Struct("<I")


def send_frame(channel: socket.socket, payload: bytes) -> None:
    channel.sendall(_LENGTH.pack(len(payload)) + payload)


def receive_frame(channel: socket.socket) -> bytes | None:
    """The next payload; None if the other end is closed."""
    head = channel.recv(_LENGTH.size, socket.MSG_WAITALL)
    if len(head) < _LENGTH.size:
        return None
    (size,) = _LENGTH.unpack(head)
    payload = channel.recv(size, socket.MSG_WAITALL) if size else b""
    return payload if len(payload) == size else None
