"""A client's bytes to the protocol of its connection and the application behind it, without a socket."""

import asyncio
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.server import ServerState

from server.http.connections.connection import Connection
from server.http.connections.connection_limits import CloseReason, ConnectionLimits
from server.http.connections.open_connections import OpenConnections
from server.http.connections.proxies import TrustedProxies
from tests.helpers.deadline import DEADLINE_S


@dataclass
class Exchange:
    """What became of a client's bytes."""

    targets: list[tuple[str, str]] = field(default_factory=list)  # method and path of what the application was asked
    written: bytearray = field(default_factory=bytearray)
    is_closed: bool = False
    reasons: list[CloseReason] = field(default_factory=list)

    @property
    def statuses(self) -> list[int]:
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", self.written)]


class _Transport(asyncio.Transport):
    def __init__(self, exchange: Exchange) -> None:
        super().__init__({"peername": ("127.0.0.1", 5000), "sockname": ("127.0.0.1", 80)})
        self._exchange = exchange

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self._exchange.is_closed, "nothing is written after the close"
        self._exchange.written += data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def close(self) -> None:
        self._exchange.is_closed = True

    def write_eof(self) -> None:
        self._exchange.is_closed = True

    def is_closing(self) -> bool:
        return self._exchange.is_closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def exchange(app: ASGIApp, pieces: Iterable[bytes], num_answers: int | None = None) -> Exchange:
    """What `app` makes of the pieces, once the heads of `num_answers` were sent; if None, once the server closes."""
    result = Exchange()

    async def recording(scope: Scope, receive: Receive, send: Send) -> None:
        result.targets.append((scope["method"], scope["path"]))
        await app(scope, receive, send)

    config = Config(recording, lifespan="off", ws="none", log_config=None, proxy_headers=False)
    config.load()
    state = ServerState()
    connection = Connection(
        config,
        state,
        {},
        limits=ConnectionLimits(head_s=60, write_s=60),
        connections=OpenConnections(8, None),
        trusted=TrustedProxies(()),
        on_closed=result.reasons.append,
    )
    connection.connection_made(_Transport(result))
    for piece in pieces:
        if not result.is_closed:
            connection.data_received(piece)
            await asyncio.sleep(0)
    async with asyncio.timeout(DEADLINE_S):
        while not (result.is_closed if num_answers is None else len(result.statuses) >= num_answers):
            await asyncio.sleep(0)
    is_closed = result.is_closed
    connection.connection_lost(None)
    result.is_closed = is_closed  # by the server, and not because its client is gone now
    await asyncio.gather(*state.tasks, return_exceptions=True)
    return result
