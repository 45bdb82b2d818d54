"""RootPath: serves under a URL prefix (--root-path), whether or not the proxy in front strips it."""

from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from server.paths import is_below


class RootPath:
    """Sets each request's root_path, and makes its path start with the prefix, as ASGI requires.

    A path with the prefix comes from a proxy that keeps it, a path without it from a proxy that strips it. If a route
    of the server itself starts with the prefix (/v1, /api), the two kinds of proxies cannot be told apart, and every
    path counts as stripped.
    """

    def __init__(self, app: ASGIApp, root_path: str, routes: Iterable[str]) -> None:
        """root_path: "", or a prefix such as "/llm". routes: the paths of all routes."""
        self._app = app
        self._root = root_path
        self._may_be_left_on = not any(is_below(route, root_path) for route in routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._root and scope["type"] == "http":
            scope["root_path"] = self._root
            if not (self._may_be_left_on and is_below(scope["path"], self._root)):
                scope["path"] = self._root + scope["path"]
                scope["raw_path"] = self._root.encode() + scope["raw_path"]
        await self._app(scope, receive, send)
