"""Loads for benchmarks/http_server/servers.py: requests per second, and many concurrent streams."""

import asyncio
import time
from collections.abc import Callable

_BODY = b'{"prompt": "' + b"a" * 200 + b'"}'


def post(path: str, body: bytes = _BODY) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


class _Client(asyncio.Protocol):
    """A client that sends one request after the other until it is stopped."""

    def __init__(self, request: bytes, end: bytes, on_answer: Callable[["_Client"], bool]) -> None:
        """end: the last bytes of each answer. on_answer: returns whether to send another request."""
        self.sent_s = 0.0
        self.first_s: float | None = None  # when the first byte of the answer came
        self.closed = asyncio.get_running_loop().create_future()
        self._request, self._end, self._on_answer = request, end, on_answer
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def send(self) -> None:
        self._received = b""
        self.sent_s, self.first_s = time.perf_counter(), None
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self.first_s is None and b"\r\n\r\n" in self._received and not self._received.endswith(b"\r\n\r\n"):
            self.first_s = time.perf_counter()  # of its body
        if self._received.endswith(self._end):
            if self._on_answer(self):
                self.send()
            else:
                self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if not self.closed.done():
            self.closed.set_result(None)


async def _connect(port: int, count: int, make: Callable[[], _Client]) -> list[_Client]:
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(make, "127.0.0.1", port))[1] for _ in range(count)]


async def requests_per_second(port: int, num_connections: int, seconds: float) -> float:
    """Return complete answers per second over connections that are kept open."""
    answers = [0]
    end_s = [0.0]

    def count(_: _Client) -> bool:
        answers[0] += 1
        return time.perf_counter() < end_s[0]

    clients = await _connect(port, num_connections, lambda: _Client(post("/whole"), b"}", count))
    began_s = time.perf_counter()
    end_s[0] = began_s + seconds
    for client in clients:
        client.send()
    await asyncio.wait_for(asyncio.gather(*(client.closed for client in clients)), seconds + 30)
    return answers[0] / (time.perf_counter() - began_s)


async def streams_at_once(port: int, num_streams: int) -> tuple[list[float], float]:
    """Return the seconds to the first byte of each completed stream, sorted, and the seconds until the last ended."""
    first: list[float] = []

    def take(client: _Client) -> bool:
        assert client.first_s is not None
        first.append(client.first_s - client.sent_s)
        return False

    clients = await _connect(port, num_streams, lambda: _Client(post("/stream"), b"0\r\n\r\n", take))
    began_s = time.perf_counter()
    for client in clients:
        client.send()
    await asyncio.wait_for(asyncio.gather(*(client.closed for client in clients)), 60)
    return sorted(first), time.perf_counter() - began_s
