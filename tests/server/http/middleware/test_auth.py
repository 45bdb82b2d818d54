"""With a key, every route but the probes wants it, wherever the server is mounted."""

from typing import Any

import pytest
from fastapi.routing import APIRoute

from server.app import ROUTERS
from server.http.middleware.auth import OPEN_PATHS
from tests.helpers.asgi import RawRequest
from tests.helpers.fake_client import FakeClient, http, make_app, says

pytestmark = pytest.mark.fast

_ENDLESS = "/dashboard/events"  # test_dashboard.py asks it for a key

ROUTES = [
    (method, route.path)
    for router in ROUTERS
    for route in router.routes
    if isinstance(route, APIRoute) and route.path != _ENDLESS
    for method in sorted(route.methods)
]


def _code(error: dict[str, Any] | str) -> str:
    """OpenAI's place for it, or Anthropic's; Ollama's errors are messages alone."""
    if isinstance(error, str):
        assert "no valid API key" in error
        return "invalid_api_key"
    code: str = error["code"] if "code" in error else error["details"]["error_code"]
    return code


def test_there_are_routes_to_check() -> None:
    assert ("POST", "/v1/chat/completions") in ROUTES
    assert len(ROUTES) >= 11


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_every_route_but_the_probes_wants_a_key(method: str, path: str) -> None:
    async with http(make_app(FakeClient(says("x")), api_key=("one", "two"))) as api:
        bare = await api.request(method, path)
        wrong = await api.request(method, path, headers={"authorization": "Bearer three"})
        right = [await api.request(method, path, headers={"authorization": f"Bearer {key}"}) for key in ("one", "two")]
    if path in OPEN_PATHS:
        assert {bare.status_code, wrong.status_code} == {200}
        return
    for refused in (bare, wrong):
        assert refused.status_code == 401
        assert method == "HEAD" or _code(refused.json()["error"]) == "invalid_api_key"
        assert refused.headers["www-authenticate"] == "Bearer"
        assert refused.headers["x-request-id"]
    assert all(response.status_code != 401 for response in right)


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/live/",
        "//live",
        "/live/../metrics",
        "/health/x",
        "/LIVE",
        "/live/..",
        "/assets/",
        "/assets/../metrics",
    ],
)
async def test_what_only_looks_like_a_probe_wants_a_key(path: str) -> None:
    request = RawRequest(make_app(FakeClient(says("x")), api_key=("one",)), path, {}, method="GET")
    async with request:  # a client's library would tidy the path
        await request.ended()
    assert request.status == 401


@pytest.mark.parametrize(
    "value", ["", "one", "Basic one", "Bearer", "Bearer ", "Bearer onetwo", "Bearer on", "Bearer é"]
)
async def test_a_malformed_authorization_is_refused(value: str) -> None:
    async with http(make_app(FakeClient(says("x")), api_key=("one",))) as api:
        response = await api.get("/v1/models", headers={"authorization": value.encode("latin-1")})  # type: ignore[dict-item]
    assert response.status_code == 401


async def test_a_key_may_come_as_anthropics_clients_send_it() -> None:
    async with http(make_app(FakeClient(says("x")), api_key=("one",))) as api:
        right = await api.get("/v1/models", headers={"x-api-key": "one"})
        wrong = await api.get("/v1/models", headers={"x-api-key": "two"})
        overruled = await api.get("/v1/models", headers={"x-api-key": "one", "authorization": "Bearer two"})
    assert (right.status_code, wrong.status_code, overruled.status_code) == (200, 401, 401)


async def test_a_key_need_not_be_ascii() -> None:
    async with http(make_app(FakeClient(says("x")), api_key=("schlüssel",))) as api:
        response = await api.get("/v1/models", headers={"authorization": "Bearer schlüssel".encode()})  # type: ignore[dict-item]
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("path", "status"), [("/api/live", 200), ("/live", 200), ("/api/v1/models", 401), ("/api", 401)]
)
async def test_the_root_path_is_taken_off_before_deciding(path: str, status: int) -> None:
    app = make_app(FakeClient(says("x")), api_key=("one",))
    request = RawRequest(app, path, {}, method="GET", root_path="/api")
    async with request:
        await request.ended()
    assert request.status == status


async def test_without_keys_nothing_is_asked_for() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        assert (await api.get("/v1/models")).status_code == 200
