"""--ttft-slo: requests whose first token would come too late are refused at once, and told when it would come."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from engine.client.queue.first_token import FirstToken
from tests.helpers.fake_client import FakeClient, http, make_app, says

pytestmark = pytest.mark.fast

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
CHAT_URL = "/v1/chat/completions"
BODIES: list[tuple[str, dict[str, Any]]] = [
    (CHAT_URL, CHAT),
    (CHAT_URL, {**CHAT, "stream": True}),
    ("/v1/completions", {"prompt": "hi", "use_beam_search": True, "n": 2, "temperature": 0}),
    ("/v1/messages", {**CHAT, "max_tokens": 5, "stream": True}),
    ("/v1/responses", {"input": "hi"}),
    ("/api/chat", {"model": "org/tiny", **CHAT}),
]


def _client(first_token_s: float, seconds_per_token: float = 0.0) -> FakeClient:
    """Expects so much, and takes twice as long to be likely."""
    client = FakeClient(says("x"))
    client.first_token_s, client.seconds_per_token = first_token_s, seconds_per_token
    return client


def _pass(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have so much go, and no more, from when a request comes to when its first token is predicted."""
    now_s = time.monotonic()
    monkeypatch.setattr("server.metrics.request_record.time", SimpleNamespace(monotonic=lambda: now_s))
    monkeypatch.setattr("server.generation.slo.time", SimpleNamespace(monotonic=lambda: now_s + seconds))


@pytest.mark.parametrize(("path", "body"), BODIES)
async def test_a_request_that_would_wait_too_long_is_refused_before_its_prompt_is_made(
    path: str, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _pass(0.3, monkeypatch)
    client = _client(4.0)
    app = make_app(client, ttft_slo=5.0)
    async with http(app) as api:
        await app.state.context.models.default.text_model()
        app.state.context.workers.run = None
        response = await api.post(path, json=body)
        metrics = (await api.get("/metrics")).text
    assert response.status_code == 429
    assert "the first token is expected after 4.3 s, and may take 8.3 s" in response.text
    assert "the limit is 5 s (--ttft-slo); try again in 4 s" in response.text
    assert response.headers["retry-after"] == "4"  # 8 - 5 s, and what has gone since the request came
    assert float(response.headers["x-predicted-ttft"]) == pytest.approx(4.3, abs=0.01)
    assert client.requests == []
    assert 'headrace_requests_shed_total{model_name="org/tiny",reason="ttft_slo"} 1.0' in metrics
    assert 'code="wait_too_long",outcome="refused"' in metrics


async def test_the_length_of_the_prompt_counts_once_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    _pass(0.0, monkeypatch)
    client = _client(1.0, seconds_per_token=0.02)
    async with http(make_app(client, ttft_slo=5.0)) as api:
        short = await api.post("/v1/completions", json={"prompt": "x" * 50})
        long = await api.post("/v1/completions", json={"prompt": "x" * 150})
    assert (short.status_code, long.status_code) == (200, 429)
    assert "try again in" in long.text
    assert len(client.requests) == 1


async def test_a_prompt_that_alone_takes_too_long_is_not_told_to_come_back() -> None:
    async with http(make_app(_client(0.0, seconds_per_token=0.04), ttft_slo=5.0)) as api:
        response = await api.post("/v1/completions", json={"prompt": "x" * 150})
    assert response.status_code == 429
    assert "its prompt alone takes 6.0 s: shorten it" in response.text
    assert "retry-after" not in response.headers
    assert response.headers["x-should-retry"] == "false"


async def test_what_has_gone_since_the_request_came_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    _pass(6.0, monkeypatch)
    async with http(make_app(_client(0.0), ttft_slo=5.0)) as api:
        assert (await api.post(CHAT_URL, json=CHAT)).status_code == 429


async def test_flexible_requests_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    _pass(0.0, monkeypatch)
    client = _client(100.0)
    async with http(make_app(client, ttft_slo=5.0)) as api:
        flexible = await api.post(CHAT_URL, json={**CHAT, "service_tier": "flex"})
        urgent = await api.post(CHAT_URL, json={**CHAT, "service_tier": "priority"})
        ready = await api.get("/ready")
    assert (flexible.status_code, urgent.status_code) == (200, 429)
    assert float(flexible.headers["x-predicted-ttft"]) == pytest.approx(100.0, abs=1.0)
    assert ready.status_code == 200  # there is room


@pytest.mark.parametrize("stream", [False, True])
async def test_answers_have_the_prediction_where_there_is_a_limit(
    stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pass(0.0, monkeypatch)
    for options, has_header in (({"ttft_slo": 5.0}, True), ({}, False)):
        async with http(make_app(_client(1.0), **options)) as api:
            response = await api.post(CHAT_URL, json={**CHAT, "stream": stream})
        assert response.status_code == 200
        assert ("x-predicted-ttft" in response.headers) == has_header


async def test_metrics_compare_predictions_with_what_came_of_them() -> None:
    app = make_app(FakeClient(says("x")))
    metrics = app.state.context.metrics
    metrics.on_first_token(FirstToken(2.0, 3.0, 1.0), 3.0)
    metrics.on_first_token(FirstToken(0.01, 0.02, 0.01), 5.0)  # a single step, and no wait
    text = metrics.scrape("")[0].decode()
    label = 'model_name="org/tiny"'
    assert f"headrace_predicted_time_to_first_token_seconds_count{{{label}}} 2.0" in text
    assert f"headrace_time_to_first_token_prediction_ratio_sum{{{label}}} 1.5" in text
    assert f"headrace_time_to_first_token_prediction_ratio_count{{{label}}} 1.0" in text
