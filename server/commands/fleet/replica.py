"""ReplicaServer: one whole server in a process that Ray Serve runs, without Ray's API, so that tests need no Ray."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

from engine.child_processes.allocator import return_large_buffers
from engine.child_processes.log_format import configure_logging
from engine.client.fork_server import ForkServer
from engine.config import EngineConfig
from engine.errors import EngineUnavailable, HeadraceError
from server.commands.fleet.scaling import BUSY_SHARE, QUEUED_TOKENS
from server.commands.lifespan.lifespan import ServerLife
from server.commands.serve.listener import is_for_this_machine
from server.config.server import ServerConfig
from server.http.connections.connection import PEER_STATE
from server.store.opening import open_store
from server.text.chat_templates.processes import TemplateProcesses

if TYPE_CHECKING:
    from fastapi import FastAPI

logger = logging.getLogger(__name__)

_UNKNOWN_PEER = ("", 0)  # a front's client, which may be on any machine


class ReplicaServer:
    """A server whose HTTP connections are Ray's. Must be created in the event loop that then calls it.

    Its lifespan has started when the models are loaded, or cannot be: then `check_health` raises the reason.
    """

    def __init__(self, server: ServerConfig, engine: EngineConfig) -> None:
        began_s = time.monotonic()
        return_large_buffers()
        configure_logging(server.log_level, server.log_format)
        self._resources = contextlib.ExitStack()
        templates = self._resources.enter_context(contextlib.closing(TemplateProcesses()))
        store = self._resources.enter_context(open_store(server))
        fork_server = self._resources.enter_context(contextlib.closing(ForkServer()))
        fork_server.begin(entry.engine for entry in server.model_entries(engine))
        self.life = ServerLife(server, engine, store, templates, began_s, fork_server)
        app = self.life.create_app()
        self._run_life = app.router.lifespan_context
        app.router.lifespan_context = self._lifespan
        self._app = within_front(app, server)
        self._failure: HeadraceError | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or run the lifespan: the ASGI application."""
        await self._app(scope, receive, send)

    async def check_health(self) -> None:
        """Raise if the models could not be loaded, or no engine is ready: the replica then gets no requests."""
        from server.routes.health import health_problem  # with the application, which takes long to import

        if self._failure is not None:
            raise self._failure
        if (problem := health_problem(self.life.context)) is not None:
            raise EngineUnavailable(bytes(problem.body).decode())

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return what QueuedTokens reads."""
        clients = [model.client for model in self.life.context.models if model.is_loaded]
        statuses = [client.status() for client in clients]
        shares = [
            status.num_running / client.info.max_num_seqs for status, client in zip(statuses, clients, strict=True)
        ]
        return {
            QUEUED_TOKENS: float(sum(status.num_waiting_tokens for status in statuses)),
            BUSY_SHARE: max(shares, default=0.0),
        }

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: "FastAPI") -> AsyncIterator[None]:
        with self._resources:
            async with self._run_life(app):
                dying: asyncio.Task[None] | None = None
                try:
                    await self.life.wait_loaded()
                except HeadraceError as error:
                    self._failure = error
                else:
                    dying = asyncio.create_task(self._exit_when_dead())
                try:
                    yield
                finally:
                    if dying is not None:
                        dying.cancel()

    async def _exit_when_dead(self) -> None:
        """End this process when no engine can be started any more, so that Ray starts another replica."""
        reason = await self.life.engines.wait_dead()
        logger.critical("this replica ends: %s", reason)
        logging.shutdown()
        os._exit(1)


def within_front(app: "FastAPI", server: ServerConfig) -> ASGIApp:
    """Return the application for requests that come through a front. If the front may be reached from other machines,
    none of its clients counts as one of this machine, as an operator without a key does."""
    from server.commands.serve.http_server import outermost
    from server.http.connections.proxies import TrustedProxies

    inner = outermost(app, server, TrustedProxies(server.network.proxies))
    is_local = is_for_this_machine(server.host)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope.setdefault("state", {})[PEER_STATE] = scope.get("client") if is_local else _UNKNOWN_PEER
        await inner(scope, receive, send)

    return answer
