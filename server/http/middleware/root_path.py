"""RootPath: the server under a prefix (--root-path), whether or not the proxy in front removes it."""

from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from server.paths import is_below


class RootPath:
    """Gives each request the prefix and a path that starts with it, as ASGI requires.

    A path with the prefix comes from a proxy that leaves it, a path without from a proxy that removes it. If a route of
    the server starts like the prefix (/v1, /api), the two cannot be distinguished, and every path counts as one
    without.
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
