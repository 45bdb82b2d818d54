"""POST /drain and DELETE /drain."""

import asyncio

import pytest

from engine.protocol import EngineRequest, FinishReason, RequestOutput
from tests.helpers.asgi import RawRequest
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.fake_client import FakeClient, Step, http, make_app, says

pytestmark = pytest.mark.fast

PROMPT = {"prompt": "a", "max_tokens": 9, "stream": True}


def _endless(request: EngineRequest) -> list[Step]:
    return [RequestOutput(id=request.id, new_ids=[97]), None]


async def test_a_drained_server_takes_nothing_until_it_is_told_to() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        began = await api.post("/drain")
        assert (began.status_code, began.json()) == (200, {"status": "draining", "drained": True, "unfinished": 0})
        refused = await api.post("/v1/completions", json=PROMPT)
        assert (refused.status_code, refused.headers["connection"]) == (503, "close")
        assert (
            "accepts no new requests (POST /drain); send the request to another server"
            in refused.json()["error"]["message"]
        )
        probe = await api.get("/ready")
        assert (probe.status_code, probe.json()["status"]) == (503, "draining")
        assert probe.json()["reason"] == "the server accepts no new requests (POST /drain)"
        assert (await api.get("/live")).status_code == 200

        ended = await api.delete("/drain")
        assert ended.json() == {"status": "ok", "drained": False, "unfinished": 0}
        assert (await api.get("/ready")).status_code == 200
        assert (await api.post("/v1/completions", json=PROMPT)).status_code == 200


async def test_it_waits_for_what_runs_and_says_how_much_that_is() -> None:
    client = FakeClient(_endless)
    app = make_app(client)
    async with RawRequest(app, "/v1/completions", PROMPT) as running, http(app) as api:
        await running.until(lambda: b'"text":"a"' in running.body)
        assert (await api.post("/drain")).json() == {"status": "draining", "drained": False, "unfinished": 1}
        waiting = asyncio.create_task(api.post("/drain?wait=60"))
        await asyncio.sleep(0)
        running.disconnect()
        await running.ended()
        assert (await waiting).json() == {"status": "draining", "drained": True, "unfinished": 0}


async def test_who_waits_is_told_that_the_drain_was_taken_back() -> None:
    client = FakeClient(_endless)
    app = make_app(client)
    async with RawRequest(app, "/v1/completions", PROMPT) as running, http(app) as api:
        await running.until(lambda: b'"text":"a"' in running.body)
        waiting = asyncio.create_task(api.post("/drain?wait=60"))
        while not app.state.context.drain.is_active:
            await asyncio.sleep(0)
        await api.delete("/drain")
        assert (await waiting).json() == {"status": "ok", "drained": False, "unfinished": 1}


async def test_what_stops_cannot_be_taken_back() -> None:
    app = make_app(FakeClient(says("x", finish=FinishReason.STOP)))
    app.state.context.drain.stop(0.0)
    async with http(app) as api:
        refused = await api.delete("/drain")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "already_stopping")
        assert (await api.get("/ready")).json()["reason"] == "the server is shutting down"


@pytest.mark.parametrize("wait", ["-1", "1.5", "x", "3601"])
async def test_an_odd_wait_is_refused_and_begins_nothing(wait: str) -> None:
    app = make_app(FakeClient(says("x")))
    async with http(app) as api:
        refused = await api.post(f"/drain?wait={wait}")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "wait")
    assert not app.state.context.drain.is_active


async def test_unknown_parameters_are_told() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        assert (await api.post("/drain?force=1")).headers["x-ignored-parameters"] == "force"
        assert (await api.delete("/drain?wait=1")).headers["x-ignored-parameters"] == "wait"


async def test_it_is_for_operators() -> None:
    app = make_app(FakeClient(says("x")))
    for method in ("POST", "DELETE"):
        request = RawRequest(app, "/drain", {}, method=method, client=("203.0.113.9", 5000))
        async with request:
            await request.ended()
        assert request.status == 403
    assert not app.state.context.drain.is_active


async def test_nothing_waits_for_a_client_that_is_gone() -> None:
    app = make_app(FakeClient(_endless))
    async with RawRequest(app, "/v1/completions", PROMPT) as running:
        await running.until(lambda: b'"text":"a"' in running.body)
        async with RawRequest(app, "/drain", {}, query="wait=3600") as waiting:
            await waiting.until(lambda: app.state.context.drain.is_active)
            waiting.disconnect()
            async with asyncio.timeout(DEADLINE_S):
                await waiting.ended()
        assert app.state.context.drain.is_active
