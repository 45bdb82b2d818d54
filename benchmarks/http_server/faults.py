"""Broken, slow and vanished clients for benchmarks/http_server/servers.py, and checks of a server's reaction."""

import asyncio
import contextlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping

from benchmarks.http_server.load import post

PATIENCE_S = 20.0  # a connection that is still open then counts as never closed

_HEAD = b"POST /whole HTTP/1.1\r\nhost: x\r\n"
_CHUNKED = b"transfer-encoding: chunked\r\n"


async def _answer(port: int, *pieces: bytes, wait_s: float = 3.0) -> tuple[int | None, bytes, bool]:
    """Return the status of the first answer, all bytes, and whether the server closed the connection by itself."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received, is_closed = b"", False
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        async with asyncio.timeout(wait_s):
            while data := await reader.read(65536):
                received += data
            is_closed = True
    except TimeoutError:
        pass
    except ConnectionError:
        is_closed = True
    finally:
        writer.close()
    status = re.match(rb"HTTP/1\.[01] (\d{3})", received)
    return int(status[1]) if status else None, received, is_closed


def _refused(*pieces: bytes) -> Callable[[int], Awaitable[bool]]:
    """Check that the server answers with 4xx, or not at all, and closes the connection."""

    async def check(port: int) -> bool:
        status, _, is_closed = await _answer(port, *pieces)
        return is_closed and (status is None or 400 <= status < 500)

    return check


def _cut_off(*pieces: bytes) -> Callable[[int], Awaitable[bool]]:
    async def check(port: int) -> bool:
        return (await _answer(port, *pieces, wait_s=PATIENCE_S))[2]

    return check


async def _drips(port: int) -> bool:
    """Check that a head whose lines come one by one is cut off."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n")
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not reader.at_eof():
                writer.write(b"a: b\r\n")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(1000), 0.5)
        return True
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    finally:
        writer.close()


async def _reads_nothing(port: int) -> bool:
    """Check that a stream that the client does not read is cut off."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    writer.write(post("/endless"))
    await asyncio.sleep(PATIENCE_S)
    try:
        async with asyncio.timeout(5):
            for _ in range(1000):  # the system's buffers, and then the end, if the server has closed the stream
                if not await reader.read(65536):
                    return True
        return False
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    finally:
        writer.close()


async def _leaves(port: int) -> bool:
    """Check that the application learns that a waiting client has left."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(post("/wait"))
    await asyncio.sleep(0.3)
    writer.close()
    await asyncio.sleep(0.5)
    _, received, _ = await _answer(port, b"GET /left HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    return bool(json.loads(received.partition(b"\r\n\r\n")[2])["left"] == 1)


async def _offers(port: int) -> bool:
    """Check that a body after an offer of HTTP/2 is read."""
    offer = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n"
    status, received, _ = await _answer(port, _HEAD + offer + b"content-length: 4\r\n\r\nbody", wait_s=1.0)
    return (status == 200 and b'"length": 4' in received) or status == 101


FAULTS: Mapping[str, Callable[[int], Awaitable[bool]]] = {
    "Content-Length beside Transfer-Encoding is refused": _refused(
        _HEAD + b"content-length: 5\r\n" + _CHUNKED + b"\r\n0\r\n\r\n"
    ),
    "two Content-Lengths are refused": _refused(_HEAD + b"content-length: 0\r\ncontent-length: 5\r\n\r\nhello"),
    "another Transfer-Encoding is refused": _refused(_HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "chunks of a bare LF are refused": _refused(_HEAD + _CHUNKED + b"\r\n5\nhello\n0\n\n"),
    "a head of bare LFs is refused": _refused(b"GET / HTTP/1.1\nhost: x\n\n"),
    "no Host, and two, are refused": _refused(b"GET / HTTP/1.1\r\n\r\n"),
    "a header of 1 MiB is refused": _refused(b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"b" * 2**20 + b"\r\n\r\n"),
    "a chunk's line of 4 MiB is refused": _refused(
        _HEAD + _CHUNKED + b"\r\n", *[b"1;" + b"x" * 2**16 if i == 0 else b"x" * 2**16 for i in range(64)], b"\r\na\r\n"
    ),
    "a body behind `Upgrade: h2c` is read": _offers,
    "the application learns that a client disconnected": _leaves,
    "a connection without a byte is cut off": _cut_off(),
    "a head that drips is cut off": _drips,
    "a stream that the client does not read is cut off": _reads_nothing,
}


async def check_all(port: int) -> dict[str, bool]:
    """Return whether the server handles each fault; the slow ones are checked concurrently."""
    return dict(zip(FAULTS, await asyncio.gather(*(check(port) for check in FAULTS.values())), strict=True))
