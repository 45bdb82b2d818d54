"""Cheap connections, for hundreds of requests per second on the machine of the server under test."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    first_s: float  # from the request to the first byte of the body, which is a stream's first event
    end_s: float


class RawConnection:
    """A keep-alive connection that sends one request after the other."""

    def __init__(self, url: str, *, key: str | None = None, timeout_s: float = 600.0) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._address = parts.hostname, parts.port
        self._authorization = () if key is None else (f"authorization: Bearer {key}",)
        self._timeout_s = timeout_s
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    @property
    def is_open(self) -> bool:
        return self._writer is not None

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(*self._address)

    def close(self) -> None:
        """Close the connection immediately, even within an answer."""
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = None

    def send(self, path: str, body: dict[str, Any]) -> None:
        """Send a request without reading its answer."""
        assert self._writer is not None
        data = json.dumps(body).encode()
        lines = (
            f"POST {path} HTTP/1.1",
            "host: {}:{}".format(*self._address),
            "content-type: application/json",
            f"content-length: {len(data)}",
            *self._authorization,
        )
        self._writer.write("\r\n".join((*lines, "\r\n")).encode() + data)

    async def post(self, path: str, body: dict[str, Any], on_piece: Callable[[bytes], None] = lambda _: None) -> Answer:
        """Send a request and read its answer. on_piece: called with each piece of a streamed body, which is an event.

        Raises ConnectionError, asyncio.IncompleteReadError or TimeoutError if the answer is incomplete.
        """
        began_s = time.monotonic()
        async with asyncio.timeout(self._timeout_s):
            self.send(path, body)
            assert self._reader is not None
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
            status, *lines = head.strip().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines)
            first_s = await self._read_body(headers, on_piece) - began_s
        return Answer(int(status.split()[1]), headers, first_s, time.monotonic() - began_s)

    async def _read_body(self, headers: dict[str, str], on_piece: Callable[[bytes], None]) -> float:
        """Read the body and return the time of its first byte."""
        reader = self._reader
        assert reader is not None
        if headers.get("transfer-encoding") != "chunked":
            await reader.readexactly(int(headers.get("content-length", 0)))
            return time.monotonic()
        first_s = 0.0
        while True:
            size = int(await reader.readline(), 16)
            piece = await reader.readexactly(size + 2)
            first_s = first_s or time.monotonic()
            on_piece(piece)
            if size == 0:
                return first_s
