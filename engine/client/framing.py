"""Framing on the socket pair between the two processes: a 4-byte little-endian length, then one msgpack message."""

import asyncio
import logging
import socket
import struct
from typing import TypeVar

import msgspec

from engine.protocol import FromEngine, ToEngine

logger = logging.getLogger(__name__)

_LENGTH = struct.Struct("<I")
MAX_FRAME_BYTES = 256 << 20  # a READY with a large tokenizer is about 20 MiB; a longer frame means a broken peer

_Message = TypeVar("_Message")
_encoder = msgspec.msgpack.Encoder()
_to_engine = msgspec.msgpack.Decoder(ToEngine)
_from_engine = msgspec.msgpack.Decoder(FromEngine)


def encode_frame(message: ToEngine | FromEngine) -> bytes:
    """One message as the bytes to send; msgspec's encoder is stateless between calls and safe to share."""
    buffer = bytearray(_LENGTH.size)
    _encoder.encode_into(message, buffer, _LENGTH.size)
    _LENGTH.pack_into(buffer, 0, len(buffer) - _LENGTH.size)
    return bytes(buffer)


def receive_to_engine(sock: socket.socket) -> ToEngine | None:
    """The next message from the API process, blocking; None once it has closed its end. Raises msgspec.DecodeError for
    what is no message, and InvalidRequest for one whose parameters cannot be."""
    header = _receive_exactly(sock, _LENGTH.size)
    if header is None:
        return None
    payload = _receive_exactly(sock, _checked_length(header))
    return None if payload is None else _decoded(_to_engine, payload)


async def receive_from_engine(reader: asyncio.StreamReader) -> FromEngine | None:
    """The next message from the engine; None once it is gone, also when it died inside a frame, or what it sends is no
    message: then it must be ended."""
    try:
        header = await reader.readexactly(_LENGTH.size)
        payload = await reader.readexactly(_checked_length(header))
        return _decoded(_from_engine, payload)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    except msgspec.DecodeError as error:
        logger.error("the engine's messages end: %s", error)
        return None


def _decoded(decoder: msgspec.msgpack.Decoder[_Message], payload: bytes | bytearray) -> _Message:
    try:
        return decoder.decode(payload)
    except UnicodeDecodeError as error:  # which msgspec leaves as it is
        raise msgspec.DecodeError(str(error)) from error


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


def _checked_length(header: bytes | bytearray) -> int:
    (length,) = _LENGTH.unpack(header)
    if length > MAX_FRAME_BYTES:
        raise msgspec.DecodeError(f"a frame of {length} bytes was announced; the limit is {MAX_FRAME_BYTES}")
    return length
