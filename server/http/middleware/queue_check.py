"""QueueMiddleware: refuses requests before their bodies are read while the queue is full."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.context import ServerContext
from server.metrics.request_record import current_record
from server.paths import route_path

_ANSWERED_BEFORE = frozenset({"last-event-id", "idempotency-key"})  # headers of requests that may need no engine


class QueueMiddleware:
    """Refuses requests before routing while the queue is full, at less than half the cost of a refusal by the route."""

    def __init__(self, app: ASGIApp, context: ServerContext, paths: frozenset[str]) -> None:
        """paths: paths of the endpoints whose requests all wait for the engine."""
        self._app = app
        self._context = context
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the queue, and forward the request. Raises QueueFull or EngineUnavailable."""
        if scope["type"] == "http" and scope["method"] == "POST" and (path := route_path(scope)) in self._paths:
            self._check(path, Headers(scope=scope))
        await self._app(scope, receive, send)

    def _check(self, path: str, headers: Headers) -> None:
        if not _ANSWERED_BEFORE.isdisjoint(headers.keys()):  # perhaps; checked again before anything is computed
            return
        if (record := current_record()) is not None:
            record.route = path
        self._context.drain.check()
        self._context.models.check_queue()
        self._context.models.arrivals.notify()
