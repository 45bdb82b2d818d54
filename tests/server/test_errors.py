"""Faults that no body has are answered with a status and OpenAI's error object."""

from typing import Any

import pytest

from engine.protocol import EngineRequest
from tests.helpers.fake_client import FakeClient, Step, http, make_app, says
from tests.helpers.refusals import check_refusal

pytestmark = pytest.mark.fast

CHAT_URL, TEXT_URL = "/v1/chat/completions", "/v1/completions"
MESSAGE = {"role": "user", "content": "hi"}


async def test_a_full_queue_is_429_with_retry_after() -> None:
    client = FakeClient(says("x"))
    client.capacity = 0
    async with http(make_app(client)) as api:
        response = await api.post(CHAT_URL, json={"messages": [MESSAGE], "stream": True})
    assert response.status_code == 429
    assert response.headers["retry-after"] == "2"
    assert response.json()["error"]["code"] == "rate_limit_exceeded"


async def test_unknown_paths_and_methods_have_openais_body() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        check_refusal(
            await api.get("/v1/nothing"), 404, None, "nothing at this path, '/v1/nothing' (GET); /docs lists all"
        )
        without_v1 = await api.post("/chat/completions", json={})
        wrong_method = await api.get(TEXT_URL)
    check_refusal(
        without_v1, 404, None, "'/chat/completions' (POST); did you mean /v1/chat/completions? /docs lists all"
    )
    check_refusal(
        wrong_method, 405, None, f"{TEXT_URL!r} does not support this method, GET; it takes POST; /docs lists all"
    )
    assert wrong_method.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("method", "path", "methods"),
    [
        ("POST", "/log-level", "GET, PUT"),
        ("GET", "/drain", "DELETE, POST"),
        ("PATCH", "/v1/files/x", "DELETE, GET"),
        ("PUT", "/v1/responses/x", "DELETE, GET"),
        ("POST", "/health", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_answered_with_all_methods_of_the_path(method: str, path: str, methods: str) -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        response = await api.request(method, path)
    check_refusal(response, 405, None, f"{path!r} does not support this method, {method}; it takes {methods}; /docs")
    assert response.headers.get_list("allow") == [methods]


async def test_an_unexpected_fault_is_a_500_that_hides_its_text(caplog: Any) -> None:
    def script(_request: EngineRequest) -> list[Step]:
        return [RuntimeError("secret")]

    async with http(make_app(FakeClient(script))) as api:
        response = await api.post(TEXT_URL, json={"prompt": "a secret prompt"}, headers={"x-request-id": "abc"})
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert "secret" not in response.text
    assert "abc" in response.json()["error"]["message"]
    assert "request abc failed" in caplog.text
    assert "a secret prompt" not in caplog.text


async def test_what_fails_before_the_routes_is_an_answer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app(FakeClient(says("x")))
    context = app.state.context

    class Broken:
        def begin(self, *_: object) -> None:
            raise RuntimeError("secret")

    monkeypatch.setattr(context, "tracing", Broken())
    async with http(app) as api:
        response = await api.get("/v1/models", headers={"x-request-id": "abc"})
    assert response.status_code == 500
    assert response.headers["x-request-id"] == "abc"
    assert "secret" not in response.text
    labels = {"method": "GET", "route": "unmatched", "status": "500"}
    assert context.metrics._families.registry.get_sample_value("headrace_http_requests_total", labels) == 1


async def test_responses_over_websocket_are_not_served() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        response = await api.get("/v1/responses", headers={"upgrade": "websocket", "connection": "upgrade"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_served")
    assert "WebSockets; POST to this path" in response.json()["error"]["message"]
