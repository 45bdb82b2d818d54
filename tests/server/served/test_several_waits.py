"""Several models over HTTP: requests that wait for a model to load."""

import asyncio
import json
from typing import Any

import pytest

from server.served.loadable_model import ModelState
from tests.helpers.asgi import RawRequest
from tests.helpers.fake_client import http
from tests.helpers.several import make_several
from tests.helpers.several_requests import BIG, CHAT, MESSAGES, until

pytestmark = pytest.mark.fast

STREAMED = [
    (CHAT, {"messages": MESSAGES}, b"data: [DONE]\n\n"),
    ("/v1/completions", {"prompt": "hi"}, b"data: [DONE]\n\n"),
    ("/v1/messages", {"messages": MESSAGES, "max_tokens": 50}, b"event: message_stop\n"),
    ("/v1/responses", {"input": "hi"}, b"event: response.incomplete\n"),
]


async def test_a_request_waits_no_longer_than_the_limit() -> None:
    several = make_several({"alpha": 1}, BIG, load_timeout_s=0.05)
    several.loads_at_once = False
    async with http(several.app) as api:
        refused = await api.post(CHAT, json={"model": "alpha", "messages": MESSAGES})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_not_loaded")
    assert "--load-timeout" in refused.json()["error"]["message"]


async def test_requests_that_wait_for_a_model_end_when_the_server_stops() -> None:
    several = make_several({"alpha": 6, "beta": 6}, 10)
    several.loads_at_once = False
    async with asyncio.timeout(20), http(several.app) as api:
        bodies = [{"model": name, "messages": MESSAGES} for name in ("alpha", "beta")]
        asked = [asyncio.create_task(api.post(CHAT, json=body)) for body in bodies]
        await until(lambda: all(several.loader.model(name).waiters for name in ("alpha", "beta")))
        await several.loader.close()
        answers = await asyncio.gather(*asked)
    assert [answer.json()["error"]["code"] for answer in answers] == ["server_stopping"] * 2
    assert sum(several.num_loads.values()) == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", {"messages": MESSAGES}),
        ("/api/generate", {"prompt": "hi"}),
        ("/api/show", {}),
        ("/tokenize", {"prompt": "hi"}),
    ],
)
async def test_a_request_waits_for_its_model_no_longer_than_requests_may_take(path: str, body: dict[str, Any]) -> None:
    several = make_several({"alpha": 1}, BIG, request_timeout=0.01)
    several.loads_at_once = False
    async with http(several.app) as api, asyncio.timeout(20):
        answer = await api.post(path, json={"model": "alpha", **body})
    assert "timeout of 0.01 s was over" in answer.text
    assert answer.status_code >= 400


@pytest.mark.parametrize(("path", "fields", "end"), STREAMED)
async def test_a_stream_tells_in_comments_how_far_its_model_is(path: str, fields: dict[str, Any], end: bytes) -> None:
    several = make_several({"alpha": 1}, BIG, sse_ping_interval=0.1)
    several.loads_at_once = False
    async with RawRequest(several.app, path, {"model": "alpha", "stream": True, **fields}) as request:
        await until(lambda: "alpha" in several.engines)
        several.engine("alpha").reason = "the model is being loaded: load weights, 40 %"
        await request.until(lambda: b": alpha: the model is being loaded: load weights, 40 %\n\n" in request.body)
        assert request.status == 200
        several.engine("alpha").may_load.set()
        await request.ended()
    assert end in request.body
    assert b'"code"' not in request.body.replace(b'"code":null', b"")


@pytest.mark.parametrize(("path", "fields", "end"), STREAMED)
async def test_what_goes_wrong_after_comments_is_an_event(path: str, fields: dict[str, Any], end: bytes) -> None:
    several = make_several({"alpha": 1}, BIG, sse_ping_interval=0.1)
    several.loads_at_once = False
    async with RawRequest(several.app, path, {"model": "alpha", "stream": True, **fields}) as request:
        await request.until(lambda: b": alpha: " in request.body)
        several.engine("alpha").failure = "no such file"
        several.engine("alpha").may_load.set()
        await request.ended()
    assert request.status == 200
    last = request.body.removesuffix(b"data: [DONE]\n\n").decode().rstrip().split("\n\n")[-1]
    event = json.loads(last.partition("data: ")[2])
    assert "could not be loaded" in event.get("error", event)["message"]
    assert request.body.endswith(end if path in (CHAT, "/v1/completions") else b"}\n\n")


async def test_a_client_that_goes_after_comments_is_forgotten() -> None:
    several = make_several({"alpha": 1}, BIG, sse_ping_interval=0.1)
    several.loads_at_once = False
    async with RawRequest(several.app, CHAT, {"model": "alpha", "messages": MESSAGES, "stream": True}) as request:
        await request.until(lambda: b": alpha: " in request.body)
        request.disconnect()
        await request.ended()
    several.engine("alpha").may_load.set()
    await until(lambda: several.loader.model("alpha").state is ModelState.LOADED)
    assert several.loader.model("alpha").num_users == 0


@pytest.mark.parametrize(
    ("fields", "options", "status", "code"),
    [({"timeout": 0.1}, {}, 504, "timeout"), ({}, {"queue_timeout": 0.1}, 503, "queue_timeout")],
)
async def test_a_requests_time_counts_while_its_model_is_loaded(
    fields: dict[str, Any], options: dict[str, Any], status: int, code: str
) -> None:
    several = make_several({"alpha": 1}, BIG, **options)
    several.loads_at_once = False
    async with http(several.app) as api:
        refused = await api.post(CHAT, json={"model": "alpha", "messages": MESSAGES, **fields})
    assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)
    assert several.loader.model("alpha").num_users == 0
    assert not several.loader.model("alpha").waiters


async def test_a_client_that_goes_while_its_model_loads_is_forgotten() -> None:
    several = make_several({"alpha": 1}, BIG)
    several.loads_at_once = False
    async with RawRequest(several.app, CHAT, {"model": "alpha", "messages": MESSAGES}) as request:
        await until(lambda: several.loader.model("alpha").state is ModelState.LOADING)
        request.disconnect()
        await request.ended()
    several.engine("alpha").may_load.set()
    await until(lambda: several.loader.model("alpha").state is ModelState.LOADED)
    assert several.loader.model("alpha").num_users == 0
    assert not several.engine("alpha").requests


async def test_a_line_of_a_batch_that_clients_make_wait_is_no_work() -> None:
    several = make_several({"alpha": 6, "beta": 6}, 10)
    models = several.app.state.context.models
    async with http(several.app) as api:
        assert (await api.post(CHAT, json={"model": "alpha", "messages": MESSAGES})).status_code == 200
    line = asyncio.create_task(several.loader.acquire("beta", is_batch=True))
    await until(lambda: several.loader.model("beta").waiters)
    assert several.loader.model("beta").state is ModelState.UNLOADED
    assert not models.has_work

    several.loads_at_once = False
    client = asyncio.create_task(several.loader.acquire("beta"))
    await until(lambda: several.loader.model("beta").state is ModelState.LOADING)
    assert models.has_work
    several.engine("beta").may_load.set()
    await asyncio.gather(line, client)
    assert not models.has_work
