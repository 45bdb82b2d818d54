"""Routes for the server's operator: with keys an admin's key, without keys a peer on this machine."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from fastapi import FastAPI
from uvicorn.config import Config
from uvicorn.server import ServerState

from server.http.connections.connection import PEER_STATE, Connection
from server.http.connections.connection_limits import ConnectionLimits
from server.http.connections.open_connections import OpenConnections
from server.http.connections.peer import is_local
from server.http.connections.proxies import TrustedProxies
from server.http.operators import OPERATORS_ONLY
from tests.helpers.asgi import DEFAULT_HEADERS, RawRequest
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.fake_client import FakeClient, http, make_app, says

pytestmark = pytest.mark.fast

HERE, ELSEWHERE = ("127.0.0.1", 5000), ("203.0.113.9", 5000)


def _app(**options: object) -> FastAPI:
    app = make_app(FakeClient(says("x")), **options)

    @app.post("/operate", dependencies=[OPERATORS_ONLY])
    async def operate() -> str:
        return "done"

    return app


async def _status(
    client: tuple[str, int] | None, headers: Mapping[str, str] | None = None, state: dict[str, Any] | None = None
) -> int | None:
    given = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    request = RawRequest(_app(), "/operate", {}, headers=[*DEFAULT_HEADERS, *given], client=client, state=state)
    async with request:
        await request.ended()
    return request.status


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        (HERE, True),
        (("127.9.9.9", 1), True),
        (("::1", 1), True),
        (("::ffff:127.0.0.1", 1), True),
        (None, True),
        (ELSEWHERE, False),
        (("10.0.0.2", 1), False),
        (("::ffff:203.0.113.9", 1), False),
        (("fe80::1%eth0", 1), False),
        (("localhost", 1), False),
        (("", 0), False),
    ],
)
def test_a_peer_is_local_by_its_address_alone(peer: tuple[str, int] | None, expected: bool) -> None:
    assert is_local(peer) is expected


@pytest.mark.parametrize(("client", "status"), [(HERE, 200), (None, 200), (ELSEWHERE, 403)])
async def test_without_keys_an_operator_is_on_this_machine(client: tuple[str, int] | None, status: int) -> None:
    assert await _status(client) == status


@pytest.mark.parametrize(
    "headers",
    [
        {"x-forwarded-for": "127.0.0.1"},
        {"forwarded": "for=127.0.0.1"},
        {"x-real-ip": "127.0.0.1"},
        {"via": "1.1 proxy"},
        {"origin": "http://127.0.0.1:8000"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-origin"},
    ],
)
async def test_without_keys_proxies_and_web_pages_on_this_machine_are_no_operators(headers: dict[str, str]) -> None:
    assert await _status(HERE, headers) == 403


@pytest.mark.parametrize(
    ("host", "origin", "site", "status"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000", "same-origin", 200),
        ("localhost:8000", "http://localhost:8000", "same-origin", 200),
        ("[::1]:8000", "http://[::1]:8000", "same-origin", 200),
        ("192.0.2.7:8000", "http://192.0.2.7:8000", None, 200),  # where browsers send no Sec-Fetch-Site
        ("127.0.0.1:8000", "http://127.0.0.1:3000", "same-site", 403),
        ("127.0.0.1:8000", "http://127.0.0.1:3000", None, 403),
        ("127.0.0.1:8000", "https://chat.example", "same-origin", 403),  # a proxy that changed Host
        ("127.0.0.1:8000", "http://evil.example", "cross-site", 403),
        ("127.0.0.1:8000", "null", "cross-site", 403),
        ("evil.example:8000", "http://evil.example:8000", "same-origin", 403),  # its name leads to this machine
        ("evil.example:8000", "http://evil.example:8000", None, 403),
    ],
)
async def test_without_keys_the_servers_own_pages_may_post_from_this_machine(
    host: str, origin: str, site: str | None, status: int
) -> None:
    sent = [(b"host", host.encode()), (b"origin", origin.encode())]
    if site is not None:
        sent.append((b"sec-fetch-site", site.encode()))
    async with RawRequest(_app(), "/operate", {}, headers=sent, client=HERE) as request:
        await request.ended()
    assert request.status == status


async def test_the_connections_own_peer_counts_where_the_client_is_what_a_proxy_says() -> None:
    assert await _status(HERE, state={PEER_STATE: ELSEWHERE}) == 403


async def test_an_address_in_a_header_is_not_taken_for_the_peer() -> None:
    refused = await _over_connection(ELSEWHERE)
    assert b"HTTP/1.1 403" in refused
    assert b"insufficient_permissions" in refused
    assert b"HTTP/1.1 200" in await _over_connection(HERE)


async def _over_connection(peer: tuple[str, int]) -> bytes:
    """The answer to an operator's request over uvicorn's connection, with a forged header where the peer is away.

    uvicorn believes that header from this machine, and here from every peer.
    """
    transport = _Transport(peer)
    config = Config(_app(), lifespan="off", ws="none", log_config=None, forwarded_allow_ips="*")
    config.load()
    connection = Connection(
        config,
        ServerState(),
        {},
        limits=ConnectionLimits(head_s=5, write_s=5),
        connections=OpenConnections(8, None),
        trusted=TrustedProxies(()),
        on_closed=lambda _: None,
    )
    connection.connection_made(transport)
    forged = b"" if peer == HERE else b"x-forwarded-for: 127.0.0.1\r\n"
    connection.data_received(b"POST /operate HTTP/1.1\r\nhost: x\r\n" + forged + b"content-length: 0\r\n\r\n")
    async with asyncio.timeout(DEADLINE_S):
        while b"\r\n\r\n" not in transport.written:
            await asyncio.sleep(0)
    connection.connection_lost(None)
    return bytes(transport.written)


class _Transport(asyncio.Transport):
    def __init__(self, peer: tuple[str, int]) -> None:
        super().__init__({"peername": peer, "sockname": ("127.0.0.1", 80)})
        self.written = bytearray()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def close(self) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def test_with_keys_an_operator_has_one_wherever_it_is() -> None:
    async with http(_app(api_key=("one",))) as api:
        bare = await api.post("/operate")
        right = await api.post("/operate", headers={"authorization": "Bearer one", "x-forwarded-for": "203.0.113.9"})
    assert (bare.status_code, right.status_code) == (401, 200)


async def test_metrics_are_open_on_a_server_without_keys() -> None:
    request = RawRequest(_app(), "/metrics", {}, method="GET", client=ELSEWHERE)
    async with request:
        await request.ended()
    assert request.status == 200
