"""create_server: runs the application in uvicorn, without uvicorn's signal handling. Slow to import."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from functools import partial

import uvicorn
from starlette.routing import Route
from starlette.types import ASGIApp

from server.app import ROUTERS
from server.commands.serve.listener import BACKLOG
from server.commands.serve.open_files import connections_at_once
from server.config.server import ServerConfig
from server.http.connections.certificates import Certificates
from server.http.connections.connection import Connection
from server.http.connections.connection_limits import CloseReason, ConnectionLimits
from server.http.connections.open_connections import OpenConnections
from server.http.connections.proxies import ProxiedClients, TrustedProxies
from server.http.connections.tls_layer import TlsLayer
from server.http.middleware.own_names import OwnNames
from server.http.middleware.root_path import RootPath
from server.metrics.values import Metrics

_FLUSH_TIMEOUT_S = 3  # for finished or cut-off responses to reach their clients


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers, which at the first SIGTERM would refuse connections instead of draining."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for sock in sockets or ():
            sock.listen(BACKLOG)  # asyncio uses one number for the backlog and for connections accepted at once

    def num_answers(self) -> int:
        """Return the number of requests whose responses are not complete."""
        return len(self.server_state.tasks)

    def num_connections(self) -> int:
        """Return the number of open connections, with or without a request."""
        return len(self.server_state.connections)


def create_server(
    app: ASGIApp, config: ServerConfig, metrics: Metrics, certificates: Certificates | None = None
) -> HttpServer:
    """Create a server of the application, not yet started, whose lifespan the caller runs. certificates: for TLS."""
    trusted = TrustedProxies(config.network.proxies)
    uvicorn_config = uvicorn.Config(
        outermost(app, config, trusted),
        lifespan="off",
        log_config=None,
        access_log=False,  # server/http/middleware/request_log.py logs more
        proxy_headers=False,  # it would trust every process of this machine
        server_header=False,
        backlog=connections_at_once(),
        timeout_keep_alive=config.timeout_keep_alive,
        timeout_graceful_shutdown=_FLUSH_TIMEOUT_S,
        http=_protocol(config, metrics, trusted, certificates),  # type: ignore[arg-type] # called like a class
        ws="none",
    )
    return HttpServer(uvicorn_config)


def outermost(app: ASGIApp, config: ServerConfig, trusted: TrustedProxies) -> ASGIApp:
    """Return the application within the middleware that depends on the network: proxies, names and --root-path."""
    paths = [route.path for router in ROUTERS for route in router.routes if isinstance(route, Route)]
    named = OwnNames(RootPath(app, config.root_path, paths), [socket.gethostname(), *config.network.allowed_hosts])
    return ProxiedClients(named, trusted, config.max_connections_per_client)


def _protocol(
    config: ServerConfig, metrics: Metrics, trusted: TrustedProxies, certificates: Certificates | None
) -> Callable[..., asyncio.Protocol]:
    """Return the factory that creates an asyncio protocol for each connection."""

    def count_closed(reason: CloseReason) -> None:
        metrics.add("http_connections_closed_total", 1, reason.value)

    plain = partial(
        Connection,
        limits=ConnectionLimits(head_s=config.http_header_timeout, write_s=config.http_write_timeout),
        connections=OpenConnections(config.max_connections, config.max_connections_per_client),
        trusted=trusted,
        on_closed=count_closed,
    )
    if certificates is None:
        return plain
    on_failed = partial(count_closed, CloseReason.TLS_HANDSHAKE)
    return lambda **given: TlsLayer(certificates.context, plain(**given), on_failed)
