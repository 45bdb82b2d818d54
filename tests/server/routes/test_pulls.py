"""POST /api/pull in Ollama's form, and the dashboard's pulls."""

import json
from typing import Any

import pytest
from fastapi import FastAPI

from engine.command_io.pulling import PullMachine, PullProgress
from server.config.models import ModelsConfig
from server.errors import PullFailed
from server.metrics.values import Metrics
from server.pulling.pulls import Pulls
from tests.helpers.asgi import RawRequest
from tests.helpers.fake_client import FakeClient, http, make_app, says
from tests.helpers.ollama import lines
from tests.helpers.scripted_pulls import PULLED, ScriptedFetch, downloaded

pytestmark = pytest.mark.fast

ELSEWHERE = ("203.0.113.9", 50000)
BODY = {"model": "owner/a"}


def _app(fetch: ScriptedFetch, **options: Any) -> FastAPI:
    app = make_app(FakeClient(says("x")), models=ModelsConfig(pull_allow=("owner/*",)), **options)
    app.state.context.pulls = Pulls(["owner/*"], Metrics("tiny"), fetch)
    return app


async def test_a_pull_is_told_in_ollamas_lines() -> None:
    fetch = ScriptedFetch()
    verify = PullProgress("verify", 500, 1000, "B")
    fetch.say("owner/a", PullProgress("import libraries", 0, 0, ""), PullMachine(5000))
    async with RawRequest(_app(fetch), "/api/pull", BODY) as request:
        await request.until(lambda: b"pulling manifest" in request.body)
        for message in (downloaded(10), downloaded(1000), verify):
            fetch.say("owner/a", message)
            await request.until(lambda message=message: f'"completed":{message.done}'.encode() in request.body)  # type: ignore[misc]
        fetch.say("owner/a", PULLED)
        await request.ended()
    assert request.headers[b"content-type"] == b"application/x-ndjson"
    told = [json.loads(line) for line in request.body.splitlines()]
    statuses = [each["status"] for each in told]
    assert statuses[0] == "pulling manifest"
    assert statuses[-1] == "success"
    assert statuses[-2].startswith("in the cache; this command serves it: ")
    bars = [each for each in told if "digest" in each]
    assert [(each["status"], each["completed"], each["total"]) for each in bars] == [
        ("download it", 10, 1000),
        ("download it", 1000, 1000),
        ("verifying sha256 digest", 500, 1000),
    ]
    assert len({each["digest"] for each in bars}) == 2
    assert all(each["digest"].startswith("sha256:") and len(each["digest"]) == 71 for each in bars)


async def test_without_a_stream_the_answer_comes_at_the_end() -> None:
    fetch = ScriptedFetch()
    fetch.say("owner/a", downloaded(10), PULLED)
    async with http(_app(fetch)) as api:
        done = await api.post("/api/pull", json={"name": "hf.co/owner/a", "stream": False})
        assert (done.status_code, done.json()) == (200, {"status": "success"})
        fetch.say("owner/a", PullFailed("the disk is full"))
        failed = await api.post("/api/pull", json={**BODY, "stream": False})
        assert (failed.status_code, failed.json()) == (500, {"error": "the disk is full"})


async def test_a_failure_is_the_streams_last_line() -> None:
    fetch = ScriptedFetch()
    fetch.say("owner/a", downloaded(10), PullFailed("its SHA-256 is wrong, twice"))
    async with http(_app(fetch)) as api:
        response = await api.post("/api/pull", json=BODY)
    assert response.status_code == 200
    assert lines(response)[-1] == {"error": "its SHA-256 is wrong, twice"}


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_ends_the_pull(stream: bool) -> None:
    fetch = ScriptedFetch()
    async with RawRequest(_app(fetch), "/api/pull", {**BODY, "stream": stream}) as request:
        await request.until(lambda: bool(fetch.begun and (not stream or request.body)))
        request.disconnect()
        await request.until(lambda: bool(fetch.closed))


async def test_names_that_are_not_allowed_are_refused_before_the_stream() -> None:
    async with http(_app(ScriptedFetch())) as api:
        refused = await api.post("/api/pull", json={"model": "other/a"})
        path = await api.post("/api/pull", json={"model": "/etc/passwd"})
        nameless = await api.post("/api/pull", json={})
        insecure = await api.post("/api/pull", json={**BODY, "insecure": True})
    assert (refused.status_code, path.status_code, nameless.status_code, insecure.status_code) == (403, 400, 400, 400)
    assert refused.json() == {"error": "'other/a' may not be fetched; --pull-allow of this server names owner/*"}


async def test_without_patterns_it_is_not_served() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        response = await api.post("/api/pull", json=BODY)
        listed = (await api.get("/dashboard/pulls")).json()
    assert response.status_code == 404
    assert "start it with --pull-allow PATTERN" in response.json()["error"]
    assert listed == {"allowed": [], "pulls": []}


async def test_the_dashboards_pull_goes_on_by_itself_and_can_be_stopped() -> None:
    fetch = ScriptedFetch()
    app = _app(fetch)
    async with http(app) as api:
        started = (await api.post("/dashboard/pulls", json=BODY)).json()
        assert (started["model"], started["state"]) == ("owner/a", "waiting")
        async with RawRequest(app, "/api/pull", BODY) as request:  # joins it
            await request.until(lambda: b"pulling manifest" in request.body)
            request.disconnect()
            await request.ended()
        (pull,) = (await api.get("/dashboard/pulls")).json()["pulls"]
        assert (pull["id"], pull["state"]) == (started["id"], "running")
        assert (await api.delete(f"/dashboard/pulls/{started['id']}")).status_code == 200
        await app.state.context.pulls.close()
        (pull,) = (await api.get("/dashboard/pulls")).json()["pulls"]
        assert pull["state"] == "stopped"
        assert (await api.delete("/dashboard/pulls/pull-0")).status_code == 404
    assert fetch.closed == ["owner/a"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/pull"),
        ("GET", "/dashboard/pulls"),
        ("POST", "/dashboard/pulls"),
        ("DELETE", "/dashboard/pulls/x"),
    ],
)
async def test_pulls_are_for_operators(method: str, path: str) -> None:
    fetch = ScriptedFetch()
    bare, locked = _app(fetch), _app(fetch, api_key=("key",))
    for app, client, status in ((bare, ELSEWHERE, 403), (locked, ("127.0.0.1", 1), 401)):
        async with RawRequest(app, path, BODY, method=method, client=client) as request:
            await request.ended()
        assert request.status == status
    assert fetch.begun == []


async def test_a_server_that_drains_starts_no_pull() -> None:
    async with http(_app(ScriptedFetch())) as api:
        await api.post("/drain")
        assert (await api.post("/api/pull", json=BODY)).status_code == 503
        assert (await api.post("/dashboard/pulls", json=BODY)).status_code == 503
