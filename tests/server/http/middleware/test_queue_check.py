"""A full queue refuses early: before bodies are read, and before prompts are made that would not get in."""

import asyncio
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from engine.errors import QueueFull, ShedReason
from server.endpoints.binding.registry import WAITING_PATHS
from server.routes.docs import OPERATIONS
from tests.helpers.asgi import RawRequest
from tests.helpers.fake_client import MODEL, FakeClient, http, make_app, says

pytestmark = pytest.mark.fast

CHAT_URL = "/v1/chat/completions"
_USER = [{"role": "user", "content": "hi"}]
CHAT: dict[str, Any] = {"messages": _USER}
BODIES: list[tuple[str, dict[str, Any]]] = [
    (CHAT_URL, CHAT),
    ("/v1/completions", {"prompt": "hi"}),
    ("/v1/messages", {"messages": _USER, "max_tokens": 5}),
    ("/v1/responses", {"input": "hi"}),
    ("/infill", {"input_prefix": "a", "input_suffix": "b"}),
]
OLLAMAS: list[tuple[str, dict[str, Any]]] = [
    ("/api/chat", {"model": MODEL, "messages": _USER}),
    ("/api/generate", {"model": MODEL, "prompt": "hi"}),
]
OLLAMAS_EMBEDDING = {"/api/embed", "/api/embeddings"}
NAMED_PREFIXES = {f"/v1/cache/{action}" for action in ("save", "load", "pin")}  # which may be cached already


def test_all_routes_that_generate_are_known_but_those_that_may_need_no_place_in_the_queue() -> None:
    generating = {key.removeprefix("POST ") for key, each in OPERATIONS.items() if QueueFull in each.errors}
    assert generating == WAITING_PATHS | {path for path, _ in OLLAMAS} | OLLAMAS_EMBEDDING | NAMED_PREFIXES


@pytest.mark.parametrize("root_path", ["", "/llm"])
async def test_an_early_refusal_is_counted_for_its_route(root_path: str) -> None:
    client = FakeClient(says("x"))
    client.capacity = 0
    app = make_app(client, root_path=root_path)
    async with RawRequest(app, root_path + CHAT_URL, CHAT, root_path=root_path) as request:
        await request.ended()
    assert request.status == 429
    metrics = app.state.context.metrics.scrape("")[0].decode()
    assert 'headrace_http_requests_total{method="POST",route="/v1/chat/completions",status="429"} 1.0' in metrics


@pytest.mark.parametrize(("path", "body"), BODIES)
async def test_a_full_queue_refuses_before_the_body_has_come(path: str, body: dict[str, Any]) -> None:
    client = FakeClient(says("x"))
    client.capacity = 0
    request = RawRequest(make_app(client), path, body)
    request.truncate_body()
    async with request:
        await request.ended()
    assert request.status == 429
    assert b"the queue is full" in request.body


@pytest.mark.parametrize(("path", "body"), BODIES + OLLAMAS)
async def test_a_queue_that_is_full_by_now_refuses_before_the_prompt_is_made(
    path: str, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = FakeClient(says("x"))
    app = make_app(client)
    await app.state.context.models.default.text_model()
    context = app.state.context
    monkeypatch.setattr(context.workers, "run", None)
    request = RawRequest(app, path, body)
    request.truncate_body()
    async with request:
        await asyncio.sleep(0)
        context.models.default._shared.num_preparing = client.capacity  # after the first look, before the body has come
        request.complete_body()
        await request.ended()
    assert request.status == 429


async def test_requests_whose_prompts_are_being_made_count_as_waiting() -> None:
    client = FakeClient(says("x"))
    client.capacity = 3
    app = make_app(client)
    async with http(app) as api:
        answers = await asyncio.gather(*(api.post(CHAT_URL, json=CHAT) for _ in range(10)))
        assert sorted(answer.status_code for answer in answers) == [200] * 3 + [429] * 7
        assert app.state.context.models.default.num_preparing == 0
        assert (await api.post(CHAT_URL, json=CHAT)).status_code == 200


async def test_a_request_whose_prompt_cannot_be_made_waits_no_longer() -> None:
    app = make_app(FakeClient(says("x")))
    async with http(app) as api:
        response = await api.post(CHAT_URL, json={"messages": [{"role": "user", "content": "x" * 500}]})
    assert response.status_code == 400
    assert app.state.context.models.default.num_preparing == 0


async def test_a_full_queue_does_not_keep_a_stream_from_those_who_come_back_to_it() -> None:
    client = FakeClient(says("hello"))
    async with http(make_app(client)) as api:
        body = {**CHAT, "stream": True, "resumable": True}
        whole = await api.post(CHAT_URL, json=body)
        first_id = whole.text.splitlines()[0].removeprefix("id: ")
        client.capacity = 0
        rest = await api.post(CHAT_URL, json=body, headers={"last-event-id": first_id})
    assert rest.status_code == 200
    assert whole.text.endswith(rest.text)


async def test_refusals_are_counted_by_reason_and_probes_are_none() -> None:
    client = FakeClient(says("x"))
    client.capacity = 0
    async with http(make_app(client)) as api:
        for path, body in BODIES + OLLAMAS:
            assert (await api.post(path, json=body)).status_code == 429
        assert (await api.get("/ready")).status_code == 503

        def full(*_: object) -> None:
            raise QueueFull("too long", retry_after_s=1, reason=ShedReason.WAITING_TOKENS)

        client.check_capacity = full  # type: ignore[method-assign]
        assert (await api.post(CHAT_URL, json=CHAT)).status_code == 429
        text = (await api.get("/metrics")).text
    (family,) = (each for each in text_string_to_metric_families(text) if each.name == "headrace_requests_shed")
    by_reason = {sample.labels["reason"]: sample.value for sample in family.samples}
    assert by_reason["waiting_requests"] == len(BODIES + OLLAMAS)
    assert by_reason["waiting_tokens"] == 1
    assert set(by_reason) == {each.value for each in ShedReason}
