"""Requests that are sent again with the same Idempotency-Key: computed once, per key and owner, for a bounded time."""

import asyncio
from typing import Any

import httpx
import pytest

from engine.errors import EngineDied
from engine.protocol import EngineRequest, FinishReason, RequestOutput
from server.errors import RequestInProgress
from server.metrics.values import Metrics
from server.runs import keyed_answers
from server.runs.keyed_answers import KeyedAnswers, WholeAnswer
from tests.helpers.asgi import DEFAULT_HEADERS, RawRequest
from tests.helpers.fake_client import MODEL, FakeClient, Step, http, make_app, says

pytestmark = pytest.mark.fast

PATH = "/v1/chat/completions"
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
KEY = {"idempotency-key": "once"}


def _hangs(request: EngineRequest) -> list[Step]:
    return [RequestOutput(id=request.id, new_ids=[72]), None]


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_repeated_request_gets_the_first_ones_answer(is_stream: bool) -> None:
    client = FakeClient(says("Hello!", finish=FinishReason.STOP))
    async with http(make_app(client)) as api:
        body = {**CHAT, "stream": is_stream}
        first = await api.post(PATH, json=body, headers=KEY)
        again = await api.post(PATH, json=dict(reversed(body.items())), headers=KEY)
        other = await api.post(PATH, json=body, headers={"idempotency-key": "twice"})
    assert again.content == first.content
    assert again.headers["content-type"] == first.headers["content-type"]
    assert (again.headers["idempotent-replayed"], first.headers.get("idempotent-replayed")) == ("true", None)
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert "idempotent-replayed" not in other.headers
    assert len(client.requests) == 2


async def test_a_repeated_request_is_answered_although_the_queue_is_full() -> None:
    client = FakeClient(says("x"))
    async with http(make_app(client)) as api:
        first = await api.post(PATH, json=CHAT, headers=KEY)
        client.capacity = 0
        again = await api.post(PATH, json=CHAT, headers=KEY)
        new = await api.post(PATH, json=CHAT, headers={"idempotency-key": "new"})
    assert again.content == first.content
    assert new.status_code == 429


async def test_another_body_under_the_same_key_is_refused() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        await api.post(PATH, json=CHAT, headers=KEY)
        refused = await api.post(PATH, json={**CHAT, "seed": 1}, headers=KEY)
        elsewhere = await api.post("/v1/completions", json={"prompt": "hi"}, headers=KEY)
        long = await api.post(PATH, json=CHAT, headers={"idempotency-key": "x" * 256})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "idempotency_key_reused")
    assert elsewhere.status_code == 200
    assert "256 characters" in long.json()["error"]["message"]


async def test_keys_of_other_owners_are_other_keys() -> None:
    client = FakeClient(says("x"))
    async with http(make_app(client, api_key=("one", "two"))) as api:
        answers = [
            await api.post(PATH, json=CHAT, headers={**KEY, "authorization": f"Bearer {each}"})
            for each in ("one", "two", "one")
        ]
    assert ["idempotent-replayed" in each.headers for each in answers] == [False, False, True]
    assert len(client.requests) == 2


async def test_while_the_first_runs_the_second_is_refused_and_a_client_that_leaves_frees_its_key() -> None:
    client = FakeClient(_hangs)
    app = make_app(client)
    async with http(app) as api:
        headers = (*DEFAULT_HEADERS, (b"idempotency-key", b"once"))
        async with RawRequest(app, PATH, {**CHAT, "stream": True}, headers=headers) as first:
            await first.until(lambda: b"content" in first.body)
            running = await api.post(PATH, json={**CHAT, "stream": True}, headers=KEY)
            first.disconnect()
            await first.ended()
        client.script = says("Hello!")
        again = await api.post(PATH, json={**CHAT, "stream": True}, headers=KEY)
        metrics = (await api.get("/metrics")).text
    assert (running.status_code, running.json()["error"]["code"]) == (409, "request_in_progress")
    assert running.headers["retry-after"] == "1"
    assert again.status_code == 200
    assert "idempotent-replayed" not in again.headers
    assert 'headrace_idempotency_keys_total{outcome="in_progress"} 1.0' in metrics


async def test_a_resumable_stream_is_joined_while_it_runs_and_sent_again_when_it_has_ended() -> None:
    client = FakeClient(says("Hello!", finish=FinishReason.STOP))
    async with http(make_app(client)) as api:
        body = {**CHAT, "stream": True, "resumable": True}
        first = await api.post(PATH, json=body, headers=KEY)
        whole = await api.post(PATH, json=body, headers=KEY)
        event_id = next(line for line in first.text.splitlines() if line.startswith("id: "))[4:]
        rest = await api.post(PATH, json=body, headers={**KEY, "last-event-id": event_id})
        await api.delete(f"/v1/streams/{first.headers['x-stream-id']}")
        anew = await api.post(PATH, json=body, headers=KEY)
    assert whole.content == first.content
    assert first.text.endswith(rest.text)
    assert 0 < len(rest.text) < len(first.text)
    assert anew.headers["x-stream-id"] != first.headers["x-stream-id"]
    assert len(client.requests) == 2


@pytest.mark.parametrize("is_stream", [False, True])
async def test_failures_are_not_kept(is_stream: bool) -> None:
    def dies(request: EngineRequest) -> list[Step]:
        return [RequestOutput(id=request.id, new_ids=[72]), EngineDied("it was killed")]

    client = FakeClient(dies)
    async with http(make_app(client)) as api:
        body = {**CHAT, "stream": is_stream}
        failed = await api.post(PATH, json=body, headers=KEY)
        client.script = says("Hello!")
        again = await api.post(PATH, json=body, headers=KEY)
    assert "it was killed" in failed.text
    assert "it was killed" not in again.text
    assert again.status_code == 200


def _kept(answers: KeyedAnswers, key: str, size: int) -> None:
    request, is_new = answers.begin("owner", PATH, key, b"")
    assert is_new
    answers.keep(request, WholeAnswer([], bytes(size)))


def test_answers_are_forgotten_after_an_hour_and_beyond_their_memory() -> None:
    now_s = 0.0
    answers = KeyedAnswers(Metrics(MODEL), clock=lambda: now_s)
    for number in range(9):  # of 8 MiB each: the first no longer fits beside the others
        _kept(answers, str(number), keyed_answers.MAX_ANSWER_BYTES)
    assert answers.begin("owner", PATH, "8", b"")[1] is False
    assert answers.begin("owner", PATH, "0", b"")[1] is True
    now_s = 3601.0
    assert answers.begin("owner", PATH, "8", b"")[1] is True


async def test_an_answer_that_is_too_long_is_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.http.idempotency.MAX_ANSWER_BYTES", 100)
    client = FakeClient(says("Hello!"))
    async with http(make_app(client)) as api:
        answers: list[httpx.Response] = [await api.post(PATH, json=CHAT, headers=KEY) for _ in range(2)]
    assert [each.status_code for each in answers] == [200, 200]
    assert len(client.requests) == 2


async def test_a_client_that_leaves_before_the_first_event_comes_back_to_its_resumable_stream_by_its_key() -> None:
    is_free = asyncio.Event()
    client = FakeClient(lambda request: [is_free, *says("Hello!")(request)])
    app = make_app(client)
    body = {**CHAT, "stream": True, "resumable": True}
    headers = (*DEFAULT_HEADERS, (b"idempotency-key", b"once"))
    async with RawRequest(app, PATH, body, headers=headers) as first:
        await first.until(lambda: bool(client.requests))
        async with RawRequest(app, PATH, body, headers=headers) as second:
            first.disconnect()
            await first.ended()
            is_free.set()
            await second.ended()
    async with http(app) as api:
        third = await api.post(PATH, json=body, headers=KEY)
    assert second.status == third.status_code == 200
    assert b"[DONE]" in second.body
    assert second.body == third.content
    assert len(client.requests) == 1


async def test_a_background_stream_is_joined_and_runs_once() -> None:
    is_free = asyncio.Event()
    client = FakeClient(
        lambda request: [_hangs(request)[0], is_free, *says("ello!", finish=FinishReason.STOP)(request)]
    )
    app = make_app(client)
    body = {"input": "hi", "background": True, "stream": True}
    headers = (*DEFAULT_HEADERS, (b"idempotency-key", b"once"))
    async with RawRequest(app, "/v1/responses", body, headers=headers) as first:
        await first.until(lambda: b"response.created" in first.body)
        first.disconnect()
        await first.ended()
    is_free.set()
    async with http(app) as api:
        again = await api.post("/v1/responses", json=body, headers=KEY)
    assert again.content.startswith(first.body)
    assert b"response.completed" in again.content
    assert len(client.requests) == 1


def test_a_request_that_runs_is_not_forgotten() -> None:
    now_s = 0.0
    answers = KeyedAnswers(Metrics(MODEL), clock=lambda: now_s)
    running, _ = answers.begin("owner", PATH, "running", b"")
    for number in range(9):
        _kept(answers, str(number), keyed_answers.MAX_ANSWER_BYTES)
    with pytest.raises(RequestInProgress):
        answers.begin("owner", PATH, "running", b"")
    now_s = 3601.0
    with pytest.raises(RequestInProgress):
        answers.begin("owner", PATH, "running", b"")
    answers.release(running)
    assert answers.begin("owner", PATH, "running", b"")[1] is True
