"""The HTTP server around a fake engine, on a socket of this process, and clients that send it bytes."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from engine.client.interface import EngineClient
from engine.config import EngineConfig
from server.app import create_app
from server.commands.serve.http_server import create_server
from server.commands.serve.listener import listening
from server.config.network import NetworkConfig
from server.config.server import ServerConfig
from server.context import ServerContext
from server.http.connections.certificates import Certificates
from server.http.connections.connection import Connection
from server.metrics.values import Metrics
from server.store.entries import Entries
from server.store.opening import open_store
from server.text.chat_templates.direct_templates import DirectTemplates
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.fake_client import MODEL, FakeClient, says

LIMIT_S = 20.0  # for a head to come, and for an answer to be read: a test puts the clock ahead
GET = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n"


@dataclass
class Peer:
    """A client that sends bytes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next answer."""
        async with asyncio.timeout(DEADLINE_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            status, *lines = head.strip().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines)
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(status.split()[1]), headers, body

    async def rest(self) -> bytes:
        """All bytes until the server closes."""
        async with asyncio.timeout(DEADLINE_S):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    async def get(self) -> int:
        self.writer.write(GET)
        return (await self.answer())[0]


@dataclass
class Served:
    port: int  # 0 where it is a Unix socket
    metrics: Metrics
    context: ServerContext
    certificates: Certificates | None
    connections: set[Connection]  # those that are open; with TLS, once the handshake is done

    def closed(self, reason: str) -> float:
        """Connections that were ended for the reason."""
        prefix = f'headrace_http_connections_closed_total{{reason="{reason}"}} '
        lines = [line for line in self.metrics.scrape("")[0].decode().splitlines() if line.startswith(prefix)]
        return float(lines[0].removeprefix(prefix)) if lines else 0.0

    async def connect(self, tls: ssl.SSLContext | None = None) -> Peer:
        name = None if tls is None else "localhost"
        return Peer(*await asyncio.open_connection("127.0.0.1", self.port, ssl=tls, server_hostname=name))


@asynccontextmanager
async def serving(
    client: EngineClient | Mapping[str, EngineClient] | None = None,
    network: NetworkConfig | None = None,
    **options: object,
) -> AsyncIterator[Served]:
    """A server, until the context is left. client: of several models, by their names. options: of ServerConfig."""
    limits = {"http_header_timeout": LIMIT_S, "http_write_timeout": LIMIT_S}
    given: dict[str, Any] = {"port": 0, "network": network or NetworkConfig(), "served_model_name": (MODEL,)}
    config = ServerConfig(**{**given, **limits, **options})
    metrics = Metrics(MODEL)
    certificates = Certificates(config.network) if config.network.has_tls else None
    with listening(config) as sock, open_store(config) as store:
        assert isinstance(store, Entries)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)  # little waits where no program sees it
        engine = EngineConfig(model=MODEL)
        app = create_app(client or FakeClient(says("x")), config, engine, metrics, store, templates=DirectTemplates())
        http, context = create_server(app, config, metrics, certificates), app.state.context
        serving = asyncio.create_task(http.serve([sock]))
        try:
            port = 0 if config.network.uds else sock.getsockname()[1]
            yield Served(port, metrics, context, certificates, http.server_state.connections)  # type: ignore[arg-type]
        finally:
            context.drain.stop(0.0)
            http.should_exit = True
            await serving
