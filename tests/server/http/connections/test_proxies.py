"""Whom a request is from, by what proxies say, and which proxies are believed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from server.http.connections.open_connections import REFUSED_STATE
from server.http.connections.proxies import ProxiedClients, TrustedProxies

pytestmark = pytest.mark.fast

PEER = ("10.0.0.7", 50_000)


def _scope(*headers: tuple[str, str], client: tuple[str, int] | None = PEER) -> Scope:
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return {"type": "http", "scheme": "http", "client": client, "headers": encoded, "state": {}}


async def _seen(scope: Scope, *proxies: str, limit: int | None = None) -> Scope:
    """The scope that the application gets."""
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
        seen.append({**scope, "state": dict(scope["state"])})

    await ProxiedClients(app, TrustedProxies(proxies), limit)(scope, _receive, _send)
    return seen[0]


async def _receive() -> Message:
    raise AssertionError


async def _send(message: Message) -> None:
    raise AssertionError(message)


@pytest.mark.parametrize(
    ("proxies", "peer", "is_trusted"),
    [
        ((), "127.0.0.1", False),
        ((), None, False),
        (("127.0.0.1",), "127.0.0.1", True),
        (("127.0.0.1",), "::ffff:127.0.0.1", True),
        (("127.0.0.1",), "127.0.0.2", False),
        (("10.0.0.0/8", "fd00::/8"), "10.255.0.1", True),
        (("10.0.0.0/8", "fd00::/8"), "fd12::1", True),
        (("10.0.0.0/8",), "11.0.0.1", False),
        (("unix",), None, True),
        (("unix",), "127.0.0.1", False),
        (("*",), "8.8.8.8", True),
        (("*",), None, True),
        (("127.0.0.1",), "not an address", False),
    ],
)
def test_who_is_believed(proxies: tuple[str, ...], peer: str | None, is_trusted: bool) -> None:
    assert TrustedProxies(proxies).trusts(peer) == is_trusted


@pytest.mark.parametrize(
    ("header", "client"),
    [
        ("1.2.3.4", "1.2.3.4"),
        ("6.6.6.6, 1.2.3.4", "1.2.3.4"),  # the left one is what the client itself has sent
        ("1.2.3.4, 10.0.0.9", "1.2.3.4"),  # through two of ours
        ("127.0.0.1, 1.2.3.4,10.0.0.9 , 10.1.1.1", "1.2.3.4"),
        ("10.0.0.1, 10.0.0.2", "10.0.0.1"),
        ("1.2.3.4:5678", "1.2.3.4"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("", None),
        ("unknown", None),
        ("1.2.3.4, unknown", None),
        ("1.2.3.4, ", None),
        ("1.2.3.4\nx, \x00", None),
    ],
)
async def test_the_client_is_whom_the_nearest_stranger_is(header: str, client: str | None) -> None:
    assert TrustedProxies(["10.0.0.0/8"]).client_of(header) == client
    seen = await _seen(_scope(("x-forwarded-for", header), ("x-forwarded-proto", "https")), "10.0.0.0/8")
    assert seen["client"] == (PEER if client is None else (client, 0))
    assert seen["scheme"] == "https"


async def test_a_header_in_several_lines_is_one() -> None:
    scope = _scope(("x-forwarded-for", "1.2.3.4"), ("x-forwarded-for", "10.0.0.9"))
    assert (await _seen(scope, "10.0.0.0/8"))["client"] == ("1.2.3.4", 0)


async def test_any_proxy_is_believed_in_all() -> None:
    assert (await _seen(_scope(("x-forwarded-for", "1.1.1.1, 2.2.2.2")), "*"))["client"] == ("1.1.1.1", 0)


async def test_strangers_are_not_believed() -> None:
    scope = _scope(("x-forwarded-for", "1.2.3.4"), ("x-forwarded-proto", "https"), ("forwarded", "for=1.2.3.4"))
    seen = await _seen(scope, "127.0.0.1", "unix")
    assert (seen["client"], seen["scheme"]) == (PEER, "http")


@pytest.mark.parametrize("scheme", ["ftp", "", "https,http", "https\r\n"])
async def test_odd_schemes_are_not_taken(scheme: str) -> None:
    seen = await _seen(_scope(("x-forwarded-proto", scheme)), "*")
    assert seen["scheme"] == ("https" if scheme.strip() == "https" else "http")


async def test_the_limit_for_each_client_counts_the_requests_that_a_proxy_brings() -> None:
    refused: dict[str, list[bool]] = {}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        refused.setdefault(scope["client"][0], []).append(REFUSED_STATE in scope["state"])
        if depth := scope["depth"]:
            await layer({**inner, "depth": depth - 1, "state": {}}, receive, send)

    layer = ProxiedClients(app, TrustedProxies(["*"]), 2)
    inner = _scope(("x-forwarded-for", "1.2.3.4"))
    await layer({**inner, "depth": 2}, _receive, _send)
    await layer({**_scope(("x-forwarded-for", "5.6.7.8")), "depth": 0}, _receive, _send)
    assert refused == {"1.2.3.4": [False, False, True], "5.6.7.8": [False]}
    assert not layer._open


@given(st.text(alphabet="0123456789abcdef.:[], \n%", max_size=60), st.sampled_from(["*", "10.0.0.0/8", "::/0"]))
def test_whatever_the_header_holds_the_client_is_an_address(header: str, proxy: str) -> None:
    client = TrustedProxies([proxy]).client_of(header)
    assert client is None or not set(client) & set(" \n,[]")
