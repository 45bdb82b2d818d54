"""Response headers for load balancers: the engine's load, and whether a refused request had begun."""

import json

import pytest

from engine.client.interface import EngineState
from engine.errors import EngineDied
from tests.helpers.fake_client import FakeClient, http, make_app, says
from tests.helpers.several import make_several
from tests.helpers.several_requests import BIG

pytestmark = pytest.mark.fast

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
LOAD = {
    "num_requests_running": 3,
    "num_requests_waiting": 2,
    "queued_prompt_tokens": 125,
    "cached_prompt_tokens": 25,
    "kv_cache_usage_perc": 0.1,
}


def _busy() -> FakeClient:
    client = FakeClient(says("x"))
    client.num_running, client.num_waiting, client.num_waiting_tokens = 3, 2, 100
    return client


@pytest.mark.parametrize("is_stream", [False, True])
async def test_an_answer_tells_the_load_of_its_engine(is_stream: bool) -> None:
    async with http(make_app(_busy())) as api:
        response = await api.post("/v1/chat/completions", json={**CHAT, "stream": is_stream})
        other = await api.get("/v1/models")
    assert response.headers["x-headrace-load"] == ", ".join(f"{name}={value}" for name, value in LOAD.items())
    assert "endpoint-load-metrics" not in response.headers
    assert "x-headrace-load" not in other.headers


async def test_orcas_header_comes_in_the_format_that_is_asked_for() -> None:
    async with http(make_app(_busy())) as api:
        text, as_json, binary = [
            await api.post("/v1/chat/completions", json=CHAT, headers={"endpoint-load-metrics-format": each})
            for each in ("TEXT", "json", "BIN")
        ]
    named = ", ".join(f"named_metrics.{name}={value}" for name, value in LOAD.items())
    assert text.headers["endpoint-load-metrics"] == f"TEXT {named}"
    kind, _, report = as_json.headers["endpoint-load-metrics"].partition(" ")
    assert (kind, json.loads(report)) == ("JSON", {"named_metrics": LOAD})
    assert "endpoint-load-metrics" not in binary.headers


async def test_a_refusal_tells_the_load_and_that_the_request_had_not_begun() -> None:
    client = _busy()
    client.capacity = 0
    async with http(make_app(client)) as api:
        full = await api.post("/v1/chat/completions", json=CHAT)
        client.state = EngineState.LOADING
        loading = await api.post("/v1/chat/completions", json=CHAT)
    for refused, status in ((full, 429), (loading, 503)):
        assert refused.status_code == status
        assert refused.headers["x-request-started"] == "false"
        assert int(refused.headers["retry-after"]) > 0
        assert "num_requests_waiting=2" in refused.headers["x-headrace-load"]


async def test_a_request_whose_engine_died_had_begun() -> None:
    async with http(make_app(FakeClient(lambda _: [EngineDied("it was killed")]))) as api:
        died = await api.post("/v1/chat/completions", json=CHAT)
    async with http(make_app(_busy())) as api:
        fine = await api.post("/v1/chat/completions", json=CHAT)
    assert (died.status_code, died.headers["x-request-started"]) == (503, "true")
    assert "x-request-started" not in fine.headers


async def test_a_repeated_answer_tells_the_load_of_its_own_model() -> None:
    several = make_several({"alpha": 1, "beta": 1}, BIG)
    key = {"idempotency-key": "once"}
    async with http(several.app) as api:
        await api.post("/v1/chat/completions", json={**CHAT, "model": "beta"}, headers=key)
        several.engine("beta").num_running = 3
        again = await api.post("/v1/chat/completions", json={**CHAT, "model": "beta"}, headers=key)
    assert again.headers["idempotent-replayed"] == "true"
    assert "num_requests_running=3" in again.headers["x-headrace-load"]
