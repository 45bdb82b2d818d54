"""OneOfSeveral: refuses requests that need one server, on a server that is one of several behind a front.

What one server stores, and changes that an operator makes in it, are unknown to the others, so a client would find them
on some requests only.
"""

from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import NotServed, needs_one_server
from server.paths import is_below, route_path

# What needs one server, by the beginning of its paths, with any method.
_STATE: Mapping[str, str] = {
    "/v1/batches": "batches need",
    "/v1/conversations": "conversations need",
    "/v1/files": "files need",
    "/v1/fine_tuning": "fine-tuning jobs need",
    "/v1/responses/": "stored responses need",
    "/v1/streams": "resumable streams need",
    "/v1/uploads": "uploads need",
}
# Below a path of _STATE, but without a state.
_COMPUTED = frozenset(
    {
        "/v1/fine_tuning/alpha/graders/run",
        "/v1/fine_tuning/alpha/graders/validate",
        "/v1/responses/input_tokens",
    }
)
# Changes of one server, by the beginning of their paths, with methods other than GET and HEAD.
_CHANGES: Mapping[str, str] = {
    "/api/pull": "fetching a model changes",
    "/dashboard/pulls": "fetching a model changes",
    "/drain": "a drain stops",
    "/log-level": "a log level changes",
    "/v1/cache": "saving or pinning a prefix changes",
    "/v1/load_lora_adapter": "loading an adapter changes",
    "/v1/models/": "loading or unloading a model changes",
    "/v1/unload_lora_adapter": "unloading an adapter changes",
}
_READS = frozenset({"GET", "HEAD", "OPTIONS"})


class OneOfSeveral:
    """Raises NotServed for paths that need one server."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (what := _needing(scope["method"], route_path(scope))) is not None:
            raise NotServed(needs_one_server(what))
        await self._app(scope, receive, send)


def _needing(method: str, path: str) -> str | None:
    """Return what needs or changes one server, with its verb; None if the request may go to any server."""
    if path in _COMPUTED:
        return None
    found = [_STATE] if method in _READS else [_STATE, _CHANGES]
    return next((what for table in found for begin, what in table.items() if _begins(path, begin)), None)


def _begins(path: str, begin: str) -> bool:
    return path.startswith(begin) if begin.endswith("/") else is_below(path, begin)
