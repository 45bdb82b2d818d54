"""Counts of requests to a pooling model: metrics, the line in the log, the use of a key."""

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from engine.client.interface import EngineState
from engine.errors import EngineDied, EngineStopped
from engine.protocol import FinishReason, PoolingOutput, PoolingParams, PoolingRequest, PoolingTask, ServiceClass
from server.errors import AnswerTimeout
from server.generation.terms import RequestTerms
from server.pooling.computing import pool
from server.pooling.encoding import EncodedInputs
from server.text.input_encoder import EncodedInput
from tests.helpers.asgi import RawRequest
from tests.helpers.fake_client import MODEL, FakeClient, http, make_app, pooling_client
from tests.helpers.keys import bearer, entry, write_keys

pytestmark = pytest.mark.fast

URL = "/v1/embeddings"


def sample(app: FastAPI, name: str, **labels: str) -> float:
    """The sum of the series with these labels, beside others; 0 without any."""
    families = app.state.context.metrics._families.registry.collect()
    samples = [each for family in families for each in family.samples if each.name == name]
    return sum(each.value for each in samples if labels.items() <= each.labels.items())


def _ends(app: FastAPI) -> dict[str, float]:
    """Inputs by how they ended."""
    found = {
        reason.value: sample(app, "headrace_pooling_inputs_total", task="embed", outcome=reason.value)
        for reason in FinishReason
    }
    return {reason: count for reason, count in found.items() if count}


async def _post(app: FastAPI, given: Any = ("ab", "c"), **fields: Any) -> httpx.Response:
    async with http(app) as api:
        return await api.post(URL, json={"input": given, **fields})


async def test_what_is_computed_is_counted_once() -> None:
    app = make_app(pooling_client())
    usage = (await _post(app)).json()["usage"]
    assert _ends(app) == {"stop": 2.0}
    assert sample(app, "headrace_prompt_tokens_total") == usage["prompt_tokens"] == 5
    assert sample(app, "headrace_pooling_request_inputs_sum") == 2
    assert sample(app, "headrace_pooling_request_tokens_sum") == 5
    assert sample(app, "headrace_request_queue_time_seconds_count") == 1
    assert sample(app, "headrace_requests_total", route=URL, outcome="completed", code="none") == 1
    assert sample(app, "headrace_service_tier_requests_total", service_tier="default") == 1


@pytest.mark.parametrize(
    ("error", "ends", "outcome", "code"),
    [
        (EngineDied("it ended"), {"error": 2.0}, "failed", "engine_died"),
        (EngineStopped("the server is being stopped"), {"abort": 2.0}, "failed", "server_stopping"),
    ],
)
async def test_an_engine_that_ends_is_counted(
    error: Exception, ends: dict[str, float], outcome: str, code: str
) -> None:
    app = make_app(pooling_client(lambda _: error))
    await _post(app)
    assert _ends(app) == ends
    assert sample(app, "headrace_requests_total", route=URL, outcome=outcome, code=code) == 1


async def test_a_full_queue_is_a_refusal_and_nothing_is_counted_as_begun() -> None:
    client = pooling_client()
    client.capacity = 0
    app = make_app(client)
    response = await _post(app)
    assert response.status_code == 429
    assert "retry-after" in response.headers
    assert _ends(app) == {}
    assert sample(app, "headrace_requests_shed_total", reason="waiting_requests") == 1
    client.state, client.reason = EngineState.DEAD, "gone"
    assert (await _post(app)).status_code == 503


async def test_inputs_that_ran_out_of_time_are_counted_apart() -> None:
    def script(request: PoolingRequest) -> Any:
        late = PoolingOutput(id=request.id, finish_reason=FinishReason.TIMEOUT)
        return late if request.prompt_ids[1] == ord("c") else [[1.0]]

    app = make_app(pooling_client(script))
    assert (await _post(app, timeout=100)).status_code == 504
    assert _ends(app) == {"stop": 1.0, "timeout": 1.0}
    assert sample(app, "headrace_prompt_tokens_total") == 3


async def test_a_request_whose_own_time_is_over_ends_in_the_engine() -> None:
    client = pooling_client()
    client.pool_gate = asyncio.Event()
    app = make_app(client)
    terms = RequestTerms(arrival_s=time.monotonic() - 10, timeout_s=5)
    params = PoolingParams(task=PoolingTask.EMBED)
    inputs = [EncodedInput([1, 2]), EncodedInput([3])]
    encoded = EncodedInputs(items=inputs, paths=["input[0]", "input[1]"], params=params, terms=terms)
    with pytest.raises(AnswerTimeout, match="timeout of 5 s"):
        await pool(app.state.context.models.default, encoded)
    assert client.num_canceled_pools == 1
    assert _ends(app) == {"timeout": 2.0}


async def test_terms_reach_the_engine() -> None:
    client = pooling_client()
    await _post(make_app(client, priority=True), service_tier="flex", priority=7, timeout=50)
    for request in client.pool_requests:
        assert (request.service_class, request.priority) == (ServiceClass.BACKGROUND, 7)
        assert request.deadline_s == pytest.approx(request.arrival_s + 50)
    assert len({request.id for request in client.pool_requests}) == 2


async def test_an_open_request_is_in_the_table_that_watchers_are_told_of() -> None:
    client = pooling_client()
    client.pool_gate = asyncio.Event()
    app = make_app(client)
    table = app.state.context.live.requests
    async with RawRequest(app, URL, {"input": ["ab", "c"]}) as request:
        await request.until(lambda: client.num_open == 2)
        (shown,) = table.open()
        assert (shown.route, shown.state, shown.prompt_tokens) == (URL, "waiting", 5)
        client.pool_gate.set()
        await request.ended()
    assert not table.open()
    (ended,) = table.recent()
    assert (ended.state, ended.finish, ended.prompt_tokens) == ("completed", "stop", 5)


async def test_the_line_of_the_log_has_tokens_and_inputs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await _post(make_app(pooling_client()))
    (fields,) = [vars(each)["fields"] for each in caplog.records if each.name == "server.http.middleware.request_log"]
    told = {name: fields[name] for name in ("route", "outcome", "model", "prompt_tokens", "inputs", "finish")}
    assert told == {
        "route": URL,
        "outcome": "completed",
        "model": MODEL,
        "prompt_tokens": 5,
        "inputs": 2,
        "finish": "stop",
    }
    assert "output_tokens" not in fields


def _with_keys(client: FakeClient, tmp_path: Path, **limits: Any) -> FastAPI:
    return make_app(client, api_keys_file=write_keys(tmp_path / "keys.json", entry("ann", **limits)))


async def test_a_key_uses_the_tokens_of_its_inputs(tmp_path: Path) -> None:
    app = _with_keys(pooling_client(), tmp_path, tokens_per_minute=8)
    async with http(app, **bearer("ann")) as api:
        first = await api.post(URL, json={"input": ["ab", "c"]})
        second = await api.post(URL, json={"input": ["ab", "c"]})
        usage = (await api.get("/v1/usage")).json()["data"][0]
    assert (first.status_code, second.status_code) == (200, 429)
    assert first.headers["x-ratelimit-remaining-tokens"] == "3"
    assert (usage["prompt_tokens"], usage["output_tokens"]) == (5, 0)
    assert usage["requests"] == {"completed": 1, "refused": 1}


async def test_what_is_left_in_time_is_not_free(tmp_path: Path) -> None:
    client = pooling_client()
    client.pool_gate = asyncio.Event()
    app = _with_keys(client, tmp_path, tokens_per_minute=8)
    headers = ((b"host", b"server"), *((name.encode(), value.encode()) for name, value in bearer("ann").items()))
    async with RawRequest(app, URL, {"input": ["ab", "c"]}, headers=headers) as request:
        await request.until(lambda: client.num_open == 2)
        request.disconnect()
        await request.ended()
    assert _ends(app) == {"abort": 2.0}
    async with http(app, **bearer("ann")) as api:
        assert (await api.post(URL, json={"input": ["ab", "c"]})).status_code == 429


async def test_a_key_that_may_not_use_the_model_is_told_so(tmp_path: Path) -> None:
    app = _with_keys(pooling_client(), tmp_path, models=["another"])
    async with http(app, **bearer("ann")) as api:
        assert (await api.post(URL, json={"input": "a", "model": MODEL})).status_code == 404
