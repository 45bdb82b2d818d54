"""A request's own account on the dashboard: found by its id or its answer's, for operators, and without its text."""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from engine.client.interface import EngineEnd, RestartReason
from engine.protocol import StepStats
from engine.protocol.sequence_events import Admitted, Computed, Ended, Queued, WaitReason, Waits
from server.live import request_table
from tests.helpers.asgi import RawRequest
from tests.helpers.deadline import until
from tests.helpers.fake_client import MODEL, FakeClient, engine_info, http, make_app, says
from tests.helpers.keys import entry, write_keys

pytestmark = pytest.mark.fast

_CHAT = {"messages": [{"role": "user", "content": "a secret question"}], "max_tokens": 9}


async def _story(api: httpx.AsyncClient, name: str, **headers: str) -> dict[str, Any]:
    answer = await api.get(f"/dashboard/requests/{name}", headers=headers)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def _step(app: FastAPI, *events: Any, step_s: float = 0.25) -> None:
    app.state.context.live.on_step(StepStats(events=list(events), step_s=step_s))


async def test_a_request_is_told_by_its_id_and_by_its_answers() -> None:
    client = FakeClient(says("a secret answer"))
    app = make_app(client)
    async with http(app) as api:
        answer = await api.post("/v1/chat/completions", json=_CHAT, headers={"x-request-id": "mine"})
        name = client.requests[0].id
        _step(app, Ended(name, 9.0, "length", num_decode_steps=8, num_drafted=0, num_accepted=0))
        story = await _story(api, "mine")
        assert story == await _story(api, answer.json()["id"])
    assert story["request"]["id"] == "mine"
    assert story["request"]["state"] == "completed"
    assert story["response_id"] == answer.json()["id"]
    assert (story["key"], story["model"], story["is_stream"], story["num_choices"]) == (None, MODEL, False, 1)
    (choice,) = story["choices"]
    assert [moment["what"] for moment in choice["moments"]] == ["ended"]
    assert "secret" not in json.dumps(story)


async def test_an_open_request_is_told_as_far_as_it_has_come() -> None:
    client = FakeClient(lambda request: [*says("some text")(request)[:3], None])
    app = make_app(client)
    async with http(app) as api:
        asked = asyncio.create_task(api.post("/v1/chat/completions", json=_CHAT, headers={"x-request-id": "mine"}))
        await until(lambda: client.requests)
        (request,) = client.requests
        began_s = request.arrival_s
        _step(app, Queued(request.id, began_s + 0.5, num_running=1, num_waiting=2, num_resumed=0))
        _step(app, Waits(request.id, began_s + 0.75, WaitReason.BLOCKS, is_shared=False))
        _step(
            app,
            Admitted(request.id, began_s + 1.0, num_cached=2),
            Computed(request.id, began_s + 1.25, num_tokens=7, num_left=0),
            Computed("of another", 1.0, num_tokens=7, num_left=0),
        )
        story = await _story(api, "mine")
        app.state.context.live.requests.engine_ended(EngineEnd(RestartReason.HANG, "it hung"))
        after = await _story(api, "mine")
        asked.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asked
    assert story["request"]["status"] is None
    assert story["choices"][0]["moments"] == [
        {"what": "queued", "at_s": 0.5, "num_running": 1, "num_waiting": 2},
        {"what": "waits", "at_s": 0.75, "reason": "blocks"},
        {"what": "admitted", "at_s": 1.0, "num_tokens": 2},
        {"what": "computed", "at_s": 1.25, "num_tokens": 7, "num_steps": 1, "step_s": 0.25},
    ]
    assert after["choices"][0]["moments"][-1]["reason"] == "hang"


async def test_an_engine_that_ends_is_a_moment_of_open_requests_alone() -> None:
    client = FakeClient(says("x"))
    app = make_app(client)
    async with http(app) as api:
        await api.post("/v1/chat/completions", json=_CHAT, headers={"x-request-id": "over"})
        client.script = lambda request: [*says("some text")(request)[:3], None]
        asked = asyncio.create_task(api.post("/v1/chat/completions", json=_CHAT, headers={"x-request-id": "open"}))
        await until(lambda: len(client.requests) == 2)
        for request in client.requests:
            _step(app, Admitted(request.id, request.arrival_s, num_cached=2))
        for _ in range(2):
            app.state.context.live.requests.engine_ended(EngineEnd(RestartReason.CRASH, "it ended"))
        told = {name: (await _story(api, name))["choices"][0]["moments"] for name in ("over", "open")}
        asked.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asked
    assert [moment["what"] for moment in told["over"]] == ["admitted"]
    assert [moment["what"] for moment in told["open"]] == ["admitted", "engine_ended", "engine_ended"]


async def test_what_the_cache_saved_is_told_in_seconds() -> None:
    client = FakeClient(says("x"), engine_info(prefill_seconds_per_token=0.5))
    async with http(make_app(client)) as api:
        await api.post("/v1/chat/completions", json=_CHAT, headers={"x-request-id": "mine"})
        assert (await _story(api, "mine"))["saved_s"] == 1.0  # two tokens of every prompt are cached there


async def test_the_first_choices_are_told() -> None:
    client = FakeClient(says("x"))
    async with http(make_app(client)) as api:
        await api.post("/v1/chat/completions", json={**_CHAT, "n": 6}, headers={"x-request-id": "mine"})
        story = await _story(api, "mine")
    assert (story["num_choices"], len(story["choices"])) == (6, 4)


async def test_a_refused_request_is_told_with_its_error() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        await api.post("/v1/chat/completions", json={**_CHAT, "temperature": -1}, headers={"x-request-id": "mine"})
        story = await _story(api, "mine")
    assert (story["request"]["state"], story["request"]["status"]) == ("refused", 400)
    assert story["choices"] == []


async def test_the_newest_of_equal_ids_is_told() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        for max_tokens in (9, 10_000_000):
            body = {**_CHAT, "max_tokens": max_tokens}
            await api.post("/v1/chat/completions", json=body, headers={"x-request-id": "mine"})
        assert (await _story(api, "mine"))["request"]["status"] == 400


async def test_old_requests_are_forgotten_with_their_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_table, "NUM_RECENT", 3)
    app = make_app(FakeClient(says("x")))
    async with http(app) as api:
        for number in range(5):
            await api.post("/v1/chat/completions", json=_CHAT, headers={"x-request-id": f"r{number}"})
        assert (await _story(api, "r2"))["request"]["id"] == "r2"
        forgotten = await api.get("/dashboard/requests/r1")
    assert forgotten.status_code == 404
    assert forgotten.json()["error"]["code"] == "request_not_known"
    assert "the last 3 with an answer, or the last 100 that were refused" in forgotten.json()["error"]["message"]
    assert len(app.state.context.live.requests.recent()) == 3 + 1  # and the question for what was forgotten
    assert len(app.state.context.live.requests._stories) == 3


async def test_refusals_displace_none_that_generated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_table, "NUM_RECENT_REFUSED", 2)
    app = make_app(FakeClient(says("x")))
    async with http(app) as api:
        await api.post("/v1/chat/completions", json=_CHAT, headers={"x-request-id": "mine"})
        for number in range(4):
            await api.post("/v1/chat/completions", json={}, headers={"x-request-id": f"refused-{number}"})
    recent = [request.id for request in app.state.context.live.requests.recent()]
    assert recent == ["refused-3", "refused-2", "mine"]


async def test_it_is_for_operators(tmp_path: Path) -> None:
    locked = make_app(
        FakeClient(says("x")), api_keys_file=write_keys(tmp_path / "k.json", entry("ann"), entry("root", admin=True))
    )
    async with http(locked) as api:
        mine = {"authorization": "Bearer secret-ann", "x-request-id": "mine"}
        await api.post("/v1/chat/completions", json=_CHAT, headers=mine)
        story = await _story(api, "mine", authorization="Bearer secret-root")
        assert story["key"] == "ann"
        assert (await api.get("/dashboard/requests/mine", headers=mine)).status_code == 403
        assert (await api.get("/dashboard/requests/mine")).status_code == 401
    bare = make_app(FakeClient(says("x")))
    for client, expected in ((("203.0.113.9", 5000), 403), (("127.0.0.1", 5000), 404)):
        async with RawRequest(bare, "/dashboard/requests/mine", {}, method="GET", client=client) as request:
            await request.ended()
        assert request.status == expected
