"""A page whose name leads to this machine is not taken for a program on it."""

from typing import Any

import pytest

from server.http.connections.connection import PEER_STATE
from server.http.middleware.own_names import OwnNames
from tests.helpers.asgi import RawRequest
from tests.helpers.fake_client import FakeClient, make_app, says

pytestmark = pytest.mark.fast

HERE, ELSEWHERE = ("127.0.0.1", 5000), ("203.0.113.9", 5000)


async def _status(
    host: str,
    *more: tuple[bytes, bytes],
    peer: tuple[str, int] | None = HERE,
    path: str = "/v1/models",
    **options: Any,
) -> int | None:
    app = OwnNames(make_app(FakeClient(says("x")), **options), ["Box"])
    headers = [(b"host", host.encode()), *more]
    request = RawRequest(app, path, {}, method="GET", headers=headers, client=peer, state={PEER_STATE: peer})
    async with request:
        await request.ended()
    return request.status


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8000",
        "localhost.",
        "api.localhost:80",
        "127.0.0.1:8000",
        "[::1]:8000",
        "10.0.0.7",
        "box",
    ],
)
async def test_programs_here_ask_for_this_machines_names(host: str) -> None:
    assert await _status(host) == 200


@pytest.mark.parametrize("host", ["page.example", "page.example:8000", "localhost.page.example", "box.page.example"])
async def test_other_names_are_refused(host: str) -> None:
    assert await _status(host) == 421


@pytest.mark.parametrize("header", [b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip", b"forwarded"])
async def test_a_page_cannot_pass_for_a_proxy(header: bytes) -> None:
    assert await _status("page.example", (header, b"203.0.113.9")) == 421


@pytest.mark.parametrize("path", ["/live", "/ready", "/openapi.json"])
async def test_what_is_open_to_all_is_open_under_any_name(path: str) -> None:
    assert await _status("page.example", path=path) == 200


async def test_names_do_not_matter_for_others() -> None:
    assert await _status("llm.example", peer=ELSEWHERE) == 200
    assert await _status("llm.example", peer=None) == 200
    assert await _status("llm.example", (b"via", b"1.1 proxy")) == 200
    assert await _status("page.example", api_key=("k",)) == 401
    assert await _status("page.example", (b"authorization", b"Bearer k"), api_key=("k",)) == 200
