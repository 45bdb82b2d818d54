"""OwnNames: detects requests from this machine with a foreign Host header, which may come from a web page.

A page can let its own name resolve to 127.0.0.1 (DNS rebinding). The browser then takes the server for the page's own
origin, and no rule for other origins applies, but the Host header still has the page's name. Keys protect from this
too, so only a server without keys looks at names.
"""

import ipaddress
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.http.connections.connection import PEER_STATE
from server.http.connections.peer import is_local

FOREIGN_NAME_STATE = "foreign_name"  # in a scope's state: AuthMiddleware refuses the request if there are no keys

# A proxy on this machine forwards its clients' Host. This is the only header of proxies that browsers let no page set:
# a page can forge X-Forwarded-For and others.
_OF_PROXIES = "via"


class OwnNames:
    """Marks requests from this machine whose Host header is not one of the server's own names."""

    def __init__(self, app: ASGIApp, names: Iterable[str]) -> None:
        """names: host names of this server that programs on this machine use, in addition to localhost."""
        self._app = app
        self._names = frozenset(name.lower() for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._is_foreign(scope):
            scope["state"][FOREIGN_NAME_STATE] = True
        await self._app(scope, receive, send)

    def _is_foreign(self, scope: Scope) -> bool:
        peer = scope["state"].get(PEER_STATE)
        if peer is None or not is_local(peer):  # no browser connects to a Unix socket
            return False
        headers = Headers(scope=scope)
        return not (self._is_own(host_name(headers)) or _OF_PROXIES in headers)

    def _is_own(self, name: str) -> bool:
        return name in ("", "localhost", *self._names) or name.endswith(".localhost") or is_address(name)


def host_name(headers: Headers) -> str:
    """Return the Host header without its port, in lower case."""
    host = headers.get("host", "").strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].removesuffix(".")


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
