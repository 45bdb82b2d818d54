"""Client addresses of requests: X-Forwarded-* headers of trusted proxies are used, and those of other peers ignored."""

import ipaddress
from collections import Counter
from collections.abc import Iterable, Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from server.config.network import ANY_PROXY, UNIX_PROXY
from server.http.connections.open_connections import REFUSED_STATE

_SCHEMES = frozenset({"http", "https"})
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Headers = Sequence[tuple[bytes, bytes]]


class TrustedProxies:
    """Proxies listed in --forwarded-allow-ips, whose X-Forwarded-* headers are used."""

    def __init__(self, proxies: Iterable[str]) -> None:
        """proxies: addresses, networks, UNIX_PROXY or ANY_PROXY."""
        self._words = frozenset(proxies) & {ANY_PROXY, UNIX_PROXY}
        self._networks = [ipaddress.ip_network(proxy) for proxy in proxies if proxy not in self._words]

    def trusts(self, peer: str | None) -> bool:
        """Whether X-Forwarded-* headers from this peer are used. peer: an address; None for a Unix socket."""
        if ANY_PROXY in self._words:
            return True
        if peer is None:
            return UNIX_PROXY in self._words
        address = _address(peer)
        return address is not None and any(address in network for network in self._networks)

    def client_of(self, forwarded_for: str) -> str | None:
        """Return the nearest client that is not a trusted proxy, from the values of X-Forwarded-For joined by commas.

        Each proxy adds its own client at the right, so everything to the left of an untrusted address is unverified. If
        every address is trusted, the client is the first one. None if the header has no address in that position.
        """
        addresses = [_address(part) for part in forwarded_for.split(",")]
        if ANY_PROXY in self._words:
            return _text(addresses[0])
        for address in reversed(addresses):
            if address is None or not self.trusts(str(address)):
                return _text(address)
        return _text(addresses[0])


def _text(address: _Address | None) -> str | None:
    return None if address is None else str(address)


def _address(text: str) -> _Address | None:
    """Parse the address in "10.0.0.1", "10.0.0.1:80", "2001:db8::1" or "[2001:db8::1]:80"; None if it is invalid. An
    IPv4-mapped address, "::ffff:10.0.0.1", gives "10.0.0.1"."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped if mapped is not None else address


class ProxiedClients:
    """The outermost middleware: sets client address and scheme of a request from the headers of a trusted proxy.

    --max-connections-per-client then counts the open requests of each such client in place of the proxy's connections.
    """

    def __init__(self, app: ASGIApp, trusted: TrustedProxies, limit_per_client: int | None) -> None:
        self._app = app
        self._trusted = trusted
        self._limit = limit_per_client
        self._open: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._trusted.trusts(_host(scope["client"])):
            await self._app(scope, receive, send)
            return
        if (scheme := _joined(scope["headers"], b"x-forwarded-proto").strip().lower()) in _SCHEMES:
            scope["scheme"] = scheme
        client = self._trusted.client_of(_joined(scope["headers"], b"x-forwarded-for"))
        if client is None:
            await self._app(scope, receive, send)
            return
        scope["client"] = (client, 0)
        self._open[client] += 1
        if self._limit is not None and self._open[client] > self._limit:
            scope["state"][REFUSED_STATE] = True
        try:
            await self._app(scope, receive, send)
        finally:
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]


def _host(client: tuple[str, int] | None) -> str | None:
    """Return the client's address; None for the Unix socket."""
    return client[0] if client is not None else None


def _joined(headers: Headers, wanted: bytes) -> str:
    """Return all values of a header, joined by commas."""
    return ",".join(value.decode("latin-1") for name, value in headers if name == wanted)
