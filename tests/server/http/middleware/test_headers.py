"""Request ids, timing and cross-origin headers."""

import pytest

from tests.helpers.fake_client import FakeClient, http, make_app, says

pytestmark = pytest.mark.fast

PAGE = "https://page.example"


@pytest.mark.parametrize("path", ["/live", "/nothing", "/v1/models"])
async def test_a_request_id_is_echoed(path: str) -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        response = await api.get(path, headers={"x-request-id": "client-id_1.a"})
    assert response.headers["x-request-id"] == "client-id_1.a"
    assert int(response.headers["openai-processing-ms"]) >= 0


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 129, "a\tb", "<script>", ".", ".."])
async def test_a_missing_or_odd_request_id_is_replaced(given: str | None) -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        headers = {} if given is None else {"x-request-id": given}
        made = [(await api.get("/live", headers=headers)).headers["x-request-id"] for _ in range(2)]
    assert all(name.startswith("req_") for name in made)
    assert made[0] != made[1]


async def test_a_clients_request_id_never_becomes_an_engine_id() -> None:
    client = FakeClient(says("x"))
    async with http(make_app(client)) as api:
        for _ in range(2):
            await api.post("/v1/completions", json={"prompt": "a"}, headers={"x-request-id": "same"})
    assert len({request.id for request in client.requests}) == 2
    assert not any("same" in request.id for request in client.requests)


async def test_other_origins_are_not_allowed_by_default() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        response = await api.get("/v1/models", headers={"origin": PAGE})
    assert "access-control-allow-origin" not in response.headers


async def test_an_allowed_origin_may_ask_without_a_key_and_read_errors() -> None:
    async with http(make_app(FakeClient(says("x")), allowed_origins=(PAGE,), api_key=("k",))) as api:
        asking = {
            "origin": PAGE,
            "access-control-request-method": "POST",
            "access-control-request-headers": "content-type",
        }
        preflight = await api.options("/v1/chat/completions", headers=asking)
        refused = await api.get("/v1/models", headers={"origin": PAGE})
        other = await api.get("/v1/models", headers={"origin": "https://other.example"})
    assert preflight.status_code == 200
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == PAGE
    assert "access-control-allow-credentials" not in refused.headers
    assert "access-control-allow-origin" not in other.headers


async def test_a_page_may_send_keys_and_read_our_headers_but_no_cookies() -> None:
    async with http(make_app(FakeClient(says("x")), allowed_origins=(PAGE,))) as api:
        asking = {
            "origin": PAGE,
            "access-control-request-method": "DELETE",
            "access-control-request-headers": "authorization, content-type, x-api-key, x-stainless-lang",
        }
        preflight = await api.options("/v1/responses/resp_1", headers=asking)
        answer = await api.get("/v1/models", headers={"origin": PAGE, "cookie": "a=b"})
    allowed = {name.strip() for name in preflight.headers["access-control-allow-headers"].lower().split(",")}
    assert {"authorization", "content-type", "x-api-key", "x-stainless-lang"} <= allowed
    assert "DELETE" in preflight.headers["access-control-allow-methods"]
    assert "access-control-allow-credentials" not in {*preflight.headers, *answer.headers}
    exposed = set(answer.headers["access-control-expose-headers"].split(", "))
    assert {"x-request-id", "retry-after", "x-should-retry", "x-ignored-parameters", "x-stream-id"} <= exposed
    assert {"x-decision-calibration", "x-decision-wording", "x-typesafe-request-id"} <= exposed
    assert answer.headers["vary"] == "Origin"
