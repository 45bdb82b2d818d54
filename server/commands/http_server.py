"""create_server: uvicorn around the application, without uvicorn's ways with signals. Slow to import."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from engine.client.interface import EngineClient
from engine.config import EngineConfig
from server.app import create_app
from server.config import ServerConfig
from server.context import ServerContext
from server.http.connection import Connection, ConnectionLimits
from server.http.connections import Connections
from server.metrics.values import Metrics
from server.store.entries import Entries

_FLUSH_TIMEOUT_S = 3  # for responses whose text is complete, or cut off, to reach their clients


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers: at the first SIGTERM it would refuse connections, and never drain."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def create_server(
    client: EngineClient, config: ServerConfig, engine_config: EngineConfig, metrics: Metrics, store: Entries
) -> tuple[HttpServer, ServerContext]:
    """A server that is yet to serve, and the state of its application."""
    app = create_app(client, config, engine_config, metrics, store)
    uvicorn_config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # server/http/request_log.py tells more
        server_header=False,
        root_path=config.root_path,
        timeout_keep_alive=config.timeout_keep_alive,
        timeout_graceful_shutdown=_FLUSH_TIMEOUT_S,
        http=_protocol(config, metrics),  # type: ignore[arg-type] # called as the class would be
        ws="none",
    )
    return HttpServer(uvicorn_config), app.state.context


def _protocol(config: ServerConfig, metrics: Metrics) -> Callable[..., HttpToolsProtocol]:
    """What uvicorn makes for each connection."""
    return partial(
        Connection,
        limits=ConnectionLimits(head_s=config.http_header_timeout, write_s=config.http_write_timeout),
        connections=Connections(config.max_connections, config.max_connections_per_client),
        on_closed=lambda reason: metrics.count_closed_connection(reason.value),
    )
