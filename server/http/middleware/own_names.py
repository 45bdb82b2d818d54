"""OwnNames: who asks on this machine for a name that is not this machine's may be a web page.

A page can have its own name lead to 127.0.0.1 (DNS rebinding). To the browser the server is then the page's own origin,
and no rule for other origins holds; but the name stands in the Host header. Keys help against it as well, so that only
a server without any looks at names.
"""

import ipaddress
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.http.connections.connection import PEER_STATE
from server.http.connections.peer import is_local

FOREIGN_NAME_STATE = "foreign_name"  # in a scope's state: AuthMiddleware refuses the request if there are no keys

# A proxy on this machine asks for its clients' name. Of the headers that say so, this is the only one that browsers let
# no page set: X-Forwarded-For and its like are a page's to forge.
_OF_PROXIES = "via"


class OwnNames:
    """Marks requests of this machine for foreign names."""

    def __init__(self, app: ASGIApp, names: Iterable[str]) -> None:
        """names: those under which programs on this machine ask for this server, beside localhost."""
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
    """The Host header without its port, in lower case."""
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
