"""Frames on a socket between two processes: four bytes of length, little-endian, then as many bytes of payload."""

import asyncio
import socket
import struct

import msgspec

from engine.errors import HeadraceError

_LENGTH = struct.Struct("<I")
MAX_FRAME_BYTES = 256 << 20  # a READY with a large tokenizer is about 20 MiB; a longer frame means a broken peer

_encoder = msgspec.msgpack.Encoder()  # keeps no state between calls: threads may share it


class FrameTooLong(HeadraceError):
    """A message is longer than the other process would read."""


def encode_frame(message: msgspec.Struct) -> bytes:
    """Encode a message as msgpack, in a frame. Raises FrameTooLong: its reader would take the sender for broken."""
    buffer = bytearray(_LENGTH.size)
    _encoder.encode_into(message, buffer, _LENGTH.size)
    length = len(buffer) - _LENGTH.size
    if length > MAX_FRAME_BYTES:
        raise FrameTooLong(f"a message between processes has {length:,} bytes; the limit is {MAX_FRAME_BYTES:,}")
    _LENGTH.pack_into(buffer, 0, length)
    return bytes(buffer)


def send_frame(sock: socket.socket, payload: bytes, *, prefix: bytes = b"") -> None:
    """Send a frame whose payload is `prefix` and then `payload`, which may be large and is not copied."""
    sock.sendall(_LENGTH.pack(len(prefix) + len(payload)) + prefix)
    sock.sendall(payload)


def receive_frame(sock: socket.socket) -> bytearray | None:
    """Block until the next frame; return its payload, or None if the socket's peer closes, even within a frame.

    Raises msgspec.DecodeError if the frame's length is over MAX_FRAME_BYTES.
    """
    header = _receive_exactly(sock, _LENGTH.size)
    return None if header is None else _receive_exactly(sock, _payload_bytes(header))


async def read_frame(reader: asyncio.StreamReader) -> bytes | None:
    """Wait for the next frame and return its payload; asynchronous version of `receive_frame`."""
    try:
        header = await reader.readexactly(_LENGTH.size)
        return await reader.readexactly(_payload_bytes(header))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def _receive_exactly(sock: socket.socket, size: int) -> bytearray | None:
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        try:
            received = sock.recv_into(view)
        except ConnectionError:
            return None
        if received == 0:
            return None
        view = view[received:]
    return buffer


def _payload_bytes(header: bytes | bytearray) -> int:
    (length,) = _LENGTH.unpack(header)
    if length > MAX_FRAME_BYTES:
        raise msgspec.DecodeError(f"a frame of {length} bytes was announced; the limit is {MAX_FRAME_BYTES}")
    return int(length)
