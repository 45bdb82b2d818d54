"""What keeps a full queue cheap: requests are refused before their body is read, and before their prompt is made."""

from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.errors import HeadraceError
from server.context import ServerContext
from server.http.disconnect import until_disconnect
from server.metrics.request_record import current_record
from server.paths.prefix import route_path
from server.served.model import ServedModel

T = TypeVar("T")


# Routes of which every request waits for the engine. Ollama's may ask for the model alone, which is loaded.
_GENERATING = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses", "/infill"})
_POOLING = frozenset({"/v1/embeddings", "/embedding", "/pooling", "/classify", "/v1/score", "/score"})
_RERANKING = frozenset({"/v1/rerank", "/v2/rerank", "/rerank"})
WAITING = _GENERATING | _POOLING | _RERANKING


class QueueMiddleware:
    """Refuses what a full queue would not take, before a route is looked for: that costs less than half."""

    def __init__(self, app: ASGIApp, context: ServerContext) -> None:
        self._app = app
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises QueueFull, or EngineUnavailable."""
        if scope["type"] == "http" and scope["method"] == "POST" and (path := route_path(scope)) in WAITING:
            self._check(path, Headers(scope=scope))
        await self._app(scope, receive, send)

    def _check(self, path: str, headers: Headers) -> None:
        if "last-event-id" in headers:  # the rest of a stream that runs already
            return
        if (record := current_record()) is not None:
            record.route = path
        self._context.drain.check()
        self._context.models.check_queue()
        self._context.models.arrivals.notify()


async def prepared(request: Request, model: ServedModel, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which makes a request ready for the engine; canceled if the client goes away.

    Meanwhile the request counts as one that waits: else a burst would be rendered and tokenized, and then refused.
    Raises ClientGone, QueueFull, EngineUnavailable, and what `work` raises.
    """
    try:
        model.check_queue()
    except HeadraceError:
        work.close()  # it has not begun
        raise
    with model.preparing():
        return await until_disconnect(work, request.receive)
