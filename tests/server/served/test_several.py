"""Several models over HTTP: each request is answered by its own, which is loaded for it where it is not."""

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest

from engine.client.interface import EngineState
from engine.protocol import AdapterInfo
from server.model_options.lora import LoraConfig
from server.served import residency
from server.served.resident import ModelState
from tests.helpers.asgi import RawRequest
from tests.helpers.fake_client import http, says
from tests.helpers.several import FakeEngine, Several, make_several

pytestmark = pytest.mark.fast

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "hi"}]
BIG = 1 << 40  # of memory: room for all


def _bodies(model: str) -> list[tuple[str, dict[str, Any]]]:
    return [
        (CHAT, {"model": model, "messages": MESSAGES}),
        ("/v1/completions", {"model": model, "prompt": "hi"}),
        ("/v1/messages", {"model": model, "messages": MESSAGES, "max_tokens": 50}),
        ("/v1/responses", {"model": model, "input": "hi"}),
        ("/api/chat", {"model": model, "messages": MESSAGES, "stream": False}),
        ("/api/generate", {"model": f"{model}:latest", "prompt": "hi", "stream": False}),
    ]


async def _ask(several: Several, model: str, **fields: Any) -> str:
    async with http(several.app) as api:
        response = await api.post(CHAT, json={"model": model, "messages": MESSAGES, **fields})
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["model"] == model
    text: str = answer["choices"][0]["message"]["content"]
    return text


async def _until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("number", range(6))
async def test_every_protocol_is_answered_by_the_model_that_it_names(number: int) -> None:
    several = make_several({"alpha": 1, "beta": 1}, BIG)
    async with http(several.app) as api:
        for name in ("alpha", "beta", "alpha"):
            path, body = _bodies(name)[number]
            response = await api.post(path, json=body)
            assert response.status_code == 200, response.text
            assert f'"{name}"' in response.text.replace(" ", "")
            assert [len(several.engine(name).requests)] == [2 if several.num_loads["beta"] and name == "alpha" else 1]
    assert several.num_loads == {"alpha": 1, "beta": 1}


async def test_a_swap_between_two_that_do_not_fit_together_loses_no_request() -> None:
    several = make_several({"alpha": 6, "beta": 6, "gamma": 3}, 10)
    rng = random.Random(1)
    names = [rng.choice(["alpha", "beta", "gamma"]) for _ in range(60)]
    answers = await asyncio.gather(*(_ask(several, name) for name in names))
    assert list(answers) == names
    assert several.residence.used_bytes <= 10
    running = [engine for each in several.engines.values() for engine in each if not engine.has_stopped]
    assert len(running) <= 2


async def test_a_model_with_open_requests_is_not_unloaded() -> None:
    several = make_several({"alpha": 6, "beta": 6}, 10)
    await _ask(several, "alpha")
    engine = several.engine("alpha")
    engine.script = lambda request: [*says("alpha")(request)[:2], None]
    async with RawRequest(several.app, CHAT, {"model": "alpha", "messages": MESSAGES, "stream": True}) as stream:
        await stream.until(lambda: b"data" in stream.body)
        waiting = asyncio.create_task(_ask(several, "beta"))
        await _until(lambda: len(several.residence.resident("beta").waiters) == 1)
        assert (engine.has_stopped, waiting.done()) == (False, False)
        stream.disconnect()
        await stream.ended()
    assert await waiting == "beta"
    assert engine.has_stopped


async def test_work_that_is_no_request_holds_its_model_too() -> None:
    several = make_several({"alpha": 6, "beta": 6}, 10)
    model = several.app.state.context.models.find("alpha")
    async with model.in_use():
        waiting = asyncio.create_task(_ask(several, "beta"))
        await _until(lambda: several.residence.resident("beta").waiters)
        assert several.residence.resident("alpha").state is ModelState.LOADED
    assert await waiting == "beta"


async def test_a_client_that_goes_while_its_model_loads_is_forgotten() -> None:
    several = make_several({"alpha": 1}, BIG)
    several.loads_at_once = False
    async with RawRequest(several.app, CHAT, {"model": "alpha", "messages": MESSAGES}) as request:
        await _until(lambda: several.residence.resident("alpha").state is ModelState.LOADING)
        request.disconnect()
        await request.ended()
    several.engine("alpha").may_load.set()
    await _until(lambda: several.residence.resident("alpha").state is ModelState.LOADED)
    assert several.residence.resident("alpha").num_users == 0
    assert not several.engine("alpha").requests


async def test_one_that_fails_takes_nothing_with_it_and_is_tried_again() -> None:
    several = make_several({"alpha": 1, "beta": 1}, BIG)
    await _ask(several, "alpha")
    await _ask(several, "beta")
    several.engine("alpha").die("it was killed")
    await _until(lambda: several.residence.resident("alpha").state is ModelState.FAILED)
    async with http(several.app) as api:
        refused = await api.post(CHAT, json={"model": "alpha", "messages": MESSAGES})
        health, cards = await api.get("/health"), await api.get("/v1/models")
    assert "it was killed" not in cards.text  # it may have paths; the log and operators have it
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
    assert "could not be loaded, or has failed" in refused.json()["error"]["message"]
    assert "it was killed" not in refused.text
    assert (health.status_code, health.json()["status"]) == (200, "degraded")
    assert await _ask(several, "beta") == "beta"
    await several.residence.want("alpha")
    assert await _ask(several, "alpha") == "alpha"


async def test_one_that_does_not_fit_now_is_refused_with_the_time_to_come_back() -> None:
    several = make_several({"alpha": 8, "beta": 6}, 10, pinned=("alpha",))
    await _ask(several, "alpha")
    async with http(several.app) as api:
        refused = await api.post(CHAT, json={"model": "beta", "messages": MESSAGES})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_not_loaded")
    assert int(refused.headers["retry-after"]) >= 1


async def test_a_request_waits_no_longer_than_the_limit() -> None:
    several = make_several({"alpha": 1}, BIG, load_timeout_s=0.05)
    several.loads_at_once = False
    async with http(several.app) as api:
        refused = await api.post(CHAT, json={"model": "alpha", "messages": MESSAGES})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_not_loaded")
    assert "--load-timeout" in refused.json()["error"]["message"]


async def test_cards_and_health_tell_each_models_state() -> None:
    several = make_several({"alpha": 1, "beta": 1}, BIG)
    await _ask(several, "alpha")
    several.loads_at_once = False
    waiting = asyncio.create_task(_ask(several, "beta"))
    await _until(lambda: "beta" in several.engines)
    several.engine("beta").stage, several.engine("beta").progress = "load weights", 0.25
    async with http(several.app) as api:
        cards = {card["id"]: card for card in (await api.get("/v1/models")).json()["data"]}
        health = await api.get("/health")
        running = (await api.get("/api/ps")).json()["models"]
    assert [cards[name]["status"]["value"] for name in ("alpha", "beta")] == ["loaded", "loading"]
    assert cards["alpha"]["headrace"]["capabilities"] == ["completion", "tools"]
    assert cards["alpha"]["headrace"]["memory_bytes"] == 1
    assert (cards["beta"]["headrace"]["stage"], cards["beta"]["headrace"]["progress"]) == ("load weights", 0.25)
    assert health.status_code == 200
    assert [each["state"] for each in health.json()["models"]] == ["loaded", "loading"]
    assert (health.json()["models"][1]["progress"], health.json()["models"][1]["waiting"]) == (0.25, 1)
    assert "beta" not in health.text
    assert [each["name"] for each in running] == ["alpha:latest"]
    several.engine("beta").may_load.set()
    assert await waiting == "beta"


async def test_operators_load_and_unload() -> None:
    several = make_several({"alpha": 1}, BIG, api_key=("k", "other"))
    async with http(several.app, authorization="Bearer k") as api:
        loaded = await api.post("/v1/models/alpha/load")
        unloaded = await api.post("/v1/models/alpha/unload")
        missing = await api.post("/v1/models/gamma/load")
    assert (loaded.status_code, loaded.json()["status"]) == (200, {"value": "loaded"})
    assert (unloaded.status_code, unloaded.json()["status"]) == (200, {"value": "unloaded"})
    assert missing.status_code == 404
    assert several.num_loads["alpha"] == 1
    assert several.engine("alpha").has_stopped


async def test_a_model_that_cannot_be_loaded_is_told_to_the_operator() -> None:
    several = make_several({"alpha": 1}, BIG)
    several.loads_at_once = False
    async with http(several.app) as api:
        asked = asyncio.create_task(api.post("/v1/models/alpha/load"))
        await _until(lambda: "alpha" in several.engines)
        several.engine("alpha").failure = "no such file"
        several.engine("alpha").may_load.set()
        answer = await asked
    assert answer.status_code == 503
    assert "no such file" in answer.json()["error"]["message"]


async def test_an_unload_is_answered_though_requests_have_the_model_loaded_again() -> None:
    several = make_several({"alpha": 1}, BIG)
    async with asyncio.timeout(20), http(several.app) as api:
        model = several.app.state.context.models.find("alpha")
        async with model.in_use():
            asked = asyncio.create_task(api.post("/v1/models/alpha/unload"))
            await _until(lambda: several.residence.resident("alpha").must_unload)
            waiting = asyncio.create_task(_ask(several, "alpha"))
            await _until(lambda: several.residence.resident("alpha").waiters)
        assert (await asked).status_code == 200
        assert await waiting == "alpha"
    assert several.num_loads["alpha"] == 2


async def test_a_load_that_cannot_come_to_be_is_answered() -> None:
    several = make_several({"alpha": 8, "beta": 6}, 10, pinned=("alpha",))
    await _ask(several, "alpha")
    async with asyncio.timeout(20), http(several.app) as api:
        answer = await api.post("/v1/models/beta/load")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_not_loaded")


async def test_an_operator_hears_that_another_one_asked_for_the_opposite() -> None:
    several = make_several({"alpha": 6, "beta": 6}, 10)
    model = several.app.state.context.models.find("alpha")
    async with asyncio.timeout(20), http(several.app) as api, model.in_use():
        asked = asyncio.create_task(api.post("/v1/models/beta/load"))
        await _until(lambda: several.residence.resident("beta").is_wanted)
        unloaded = await api.post("/v1/models/beta/unload")
        answer = await asked
    assert (unloaded.status_code, answer.status_code) == (200, 503)
    assert "another operator" in answer.json()["error"]["message"]


async def test_an_error_of_the_servers_own_leaves_no_model_loading() -> None:
    several = make_several({"alpha": 1}, BIG)
    several.loads_at_once = False
    async with asyncio.timeout(20), http(several.app) as api:
        asked = asyncio.create_task(api.post(CHAT, json={"model": "alpha", "messages": MESSAGES}))
        await _until(lambda: "alpha" in several.engines)
        several.engine("alpha").failure = KeyError("weights")
        several.engine("alpha").may_load.set()
        refused = await asked
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
    assert several.residence.resident("alpha").state is ModelState.FAILED
    assert several.engine("alpha").has_stopped


async def test_whoever_waits_for_a_model_is_told_that_the_server_stops() -> None:
    several = make_several({"alpha": 6, "beta": 6}, 10)
    several.loads_at_once = False
    async with asyncio.timeout(20), http(several.app) as api:
        bodies = [{"model": name, "messages": MESSAGES} for name in ("alpha", "beta")]
        asked = [asyncio.create_task(api.post(CHAT, json=body)) for body in bodies]
        await _until(lambda: all(several.residence.resident(name).waiters for name in ("alpha", "beta")))
        await several.residence.close()
        answers = await asyncio.gather(*asked)
    assert [answer.json()["error"]["code"] for answer in answers] == ["server_stopping"] * 2
    assert sum(several.num_loads.values()) == 1


async def test_probes_tell_a_failure_and_not_its_reason() -> None:
    several = make_several({"alpha": 1}, BIG)
    await _ask(several, "alpha")
    several.engine("alpha").die("no room on /secret")
    await _until(lambda: several.residence.resident("alpha").state is ModelState.FAILED)
    async with http(several.app) as api:
        for path in ("/health", "/ready"):
            answer = await api.get(path)
            assert (answer.status_code, answer.json()["status"]) == (503, "failed")
            assert "secret" not in answer.text
            assert "retry-after" not in answer.headers


async def test_a_server_whose_models_have_all_failed_is_ready_again_when_its_own_try_succeeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(residency, "_RETRY_FAILED_S", 0.0)
    several = make_several({"alpha": 1}, BIG)
    await _ask(several, "alpha")
    several.loads_at_once = False
    several.engine("alpha").die("it was killed")
    await _until(lambda: several.num_loads["alpha"] == 2)
    async with http(several.app) as api:
        meanwhile = await api.get("/ready")
        several.engine("alpha").may_load.set()
        await _until(lambda: several.residence.resident("alpha").state is ModelState.LOADED)
        afterwards = await api.get("/ready")
    assert (meanwhile.status_code, meanwhile.json()["status"]) == (503, "loading")
    assert afterwards.status_code == 200


async def test_ollamas_clients_say_how_long_a_model_is_kept() -> None:
    several = make_several({"alpha": 1}, BIG)
    async with http(several.app) as api:
        loaded = await api.post("/api/generate", json={"model": "alpha", "keep_alive": "1h"})
        (running,) = (await api.get("/api/ps")).json()["models"]
        wrong = await api.post("/api/generate", json={"model": "alpha", "keep_alive": "soon"})
        unloaded = await api.post("/api/generate", json={"model": "alpha", "keep_alive": 0})
        await _until(lambda: several.residence.resident("alpha").state is ModelState.UNLOADED)
        again = await api.post("/api/chat", json={"model": "alpha", "keep_alive": "0s"})
    assert (loaded.json()["done_reason"], "x-ignored-parameters" in loaded.headers) == ("load", False)
    assert not running["expires_at"].startswith("9999")
    assert (wrong.status_code, "keep_alive" in wrong.text) == (400, True)
    assert unloaded.json()["done_reason"] == again.json()["done_reason"] == "unload"
    assert several.num_loads["alpha"] == 1, "what is to be unloaded is not loaded for it"


async def test_a_model_that_is_kept_for_ever_is_listed_without_an_end() -> None:
    several = make_several({"alpha": 1}, BIG)
    async with http(several.app) as api:
        await api.post("/api/generate", json={"model": "alpha", "keep_alive": 999_999_999_999})
        listed = await api.get("/api/ps")
    assert listed.status_code == 200, listed.text
    assert listed.json()["models"][0]["expires_at"].startswith("9999")


async def test_a_pinned_model_is_not_said_to_be_unloaded() -> None:
    several = make_several({"alpha": 1}, BIG, pinned=("alpha",))
    async with http(several.app) as api:
        for path in ("/api/generate", "/api/chat"):
            answer = await api.post(path, json={"model": "alpha", "keep_alive": 0})
            assert answer.json()["done_reason"] == "load"
            assert answer.headers["x-ignored-parameters"] == "keep_alive"
    assert several.residence.resident("alpha").state is ModelState.LOADED


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", {"messages": MESSAGES}),
        ("/api/generate", {"prompt": "hi"}),
        ("/api/show", {}),
        ("/tokenize", {"prompt": "hi"}),
    ],
)
async def test_whoever_waits_for_a_model_waits_no_longer_than_requests_may_take(
    path: str, body: dict[str, Any]
) -> None:
    several = make_several({"alpha": 1}, BIG, request_timeout=0.01)
    several.loads_at_once = False
    async with http(several.app) as api, asyncio.timeout(20):
        answer = await api.post(path, json={"model": "alpha", **body})
    assert "timeout of 0.01 s was over" in answer.text
    assert answer.status_code >= 400


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", {"messages": MESSAGES, "options": {"num_predict": 0}}),
        ("/api/generate", {"prompt": "hi", "keep_alive": "soon"}),
        ("/api/generate", {"prompt": "hi", "keep_alive": "1" * 33}),
        ("/tokenize", {"prompt": "hi", "novelty": 1}),
        ("/detokenize", {"tokens": [1], "novelty": 1}),
        ("/v1/chat/completions", {"messages": MESSAGES, "novelty": 1}),
        ("/v1/chat/completions", {"messages": MESSAGES, "temperature": -1}),
        ("/v1/chat/completions", {"messages": MESSAGES, "top_logprobs": 2}),
        ("/v1/chat/completions", {"messages": MESSAGES, "stream_options": {"include_usage": True}}),
        ("/v1/chat/completions", {"messages": MESSAGES, "prompt_logprobs": 1, "stream": True}),
        ("/v1/chat/completions", {"messages": MESSAGES, "use_beam_search": True, "stop": "x"}),
        ("/v1/completions", {"prompt": "hi", "n": 2, "best_of": 1}),
        ("/v1/completions", {"prompt": "hi", "logprobs": 1000}),
        ("/v1/responses", {"input": "hi", "background": True, "store": False}),
        ("/v1/responses", {"input": "hi", "top_logprobs": 3}),
        ("/v1/responses", {"input": "hi", "previous_response_id": "resp_x", "conversation": "conv_x"}),
        ("/v1/responses", {"input": []}),
        ("/v1/responses/input_tokens", {"input": []}),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 5, "novelty": 1}),
        ("/v1/messages", {"messages": [{"role": "user", "content": []}], "max_tokens": 5}),
        ("/v1/messages/count_tokens", {"messages": MESSAGES, "thread": "x"}),
        ("/infill", {"input_prefix": "a", "input_suffix": "b", "novelty": 1}),
    ],
)
async def test_no_model_is_loaded_for_a_request_that_is_refused(path: str, body: dict[str, Any]) -> None:
    several = make_several({"alpha": 1}, BIG, strict_parameters=True)
    async with http(several.app) as api:
        answer = await api.post(path, json={"model": "alpha", **body})
    assert answer.status_code == 400, answer.text
    assert not several.num_loads


async def test_metrics_have_each_models_series() -> None:
    several = make_several({"alpha": 1, "beta": 1}, BIG)
    await _ask(several, "alpha")
    await _ask(several, "beta")
    await _ask(several, "beta")
    async with http(several.app) as api:
        text = (await api.get("/metrics")).text
    for name, count in (("alpha", 1), ("beta", 2)):
        assert f'headrace_request_success_total{{finished_reason="length",model_name="{name}"}} {count}.0' in text
        assert f'headrace_engine_ready{{model_name="{name}"}} 1.0' in text


async def test_an_engine_that_is_started_again_refuses_for_the_moment() -> None:
    several = make_several({"alpha": 1}, BIG)
    await _ask(several, "alpha")
    several.engine("alpha").state = EngineState.LOADING
    async with http(several.app) as api:
        refused = await api.post(CHAT, json={"model": "alpha", "messages": MESSAGES})
        card = (await api.get("/v1/models/alpha")).json()
    assert refused.status_code == 503
    assert card["status"]["value"] == "loading"


async def test_a_server_is_ready_when_the_models_of_its_start_are() -> None:
    several = make_several({"alpha": 1, "beta": 1}, BIG)
    several.app.state.context.models.have_started = False
    await _ask(several, "alpha")
    async with http(several.app) as api:
        early = await api.get("/ready")
        several.app.state.context.models.have_started = True
        later = await api.get("/ready")
    assert (early.status_code, early.json()["status"]) == (503, "loading")
    assert (later.status_code, later.json()["status"]) == (200, "ok")


STREAMED = [
    (CHAT, {"messages": MESSAGES}, b"data: [DONE]\n\n"),
    ("/v1/completions", {"prompt": "hi"}, b"data: [DONE]\n\n"),
    ("/v1/messages", {"messages": MESSAGES, "max_tokens": 50}, b"event: message_stop\n"),
    ("/v1/responses", {"input": "hi"}, b"event: response.incomplete\n"),
]


@pytest.mark.parametrize(("path", "fields", "end"), STREAMED)
async def test_a_stream_tells_in_comments_how_far_its_model_is(path: str, fields: dict[str, Any], end: bytes) -> None:
    several = make_several({"alpha": 1}, BIG, sse_ping_interval=0.1)
    several.loads_at_once = False
    async with RawRequest(several.app, path, {"model": "alpha", "stream": True, **fields}) as request:
        await _until(lambda: "alpha" in several.engines)
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
    await _until(lambda: several.residence.resident("alpha").state is ModelState.LOADED)
    assert several.residence.resident("alpha").num_users == 0


async def test_the_dashboard_shows_one_model_and_lists_all() -> None:
    several = make_several({"alpha": 1, "beta": 1}, BIG)
    await _ask(several, "beta")
    async with http(several.app) as api:
        queries: list[dict[str, str]] = [{"frames": "1"}, {"frames": "1", "model": "beta"}]
        texts = [(await api.get("/dashboard/events", params=query)).text for query in queries]
        missing = await api.get("/dashboard/events", params={"frames": 1, "model": "gamma"})
    first, second = (json.loads(text.partition("data: ")[2]) for text in texts)
    assert [(each["name"], each["state"]) for each in first["models"]] == [("alpha", "unloaded"), ("beta", "loaded")]
    assert (first["engine"]["state"], second["engine"]["state"]) == ("unloaded", "ready")
    assert (len(first["recent"]), len(second["recent"])) == (0, 1)
    assert missing.status_code == 404


async def test_a_request_is_told_after_its_model_was_unloaded() -> None:
    several = make_several({"alpha": 1, "beta": 1}, BIG)
    async with http(several.app) as api:
        for name in ("alpha", "beta"):
            body = {"model": name, "messages": MESSAGES}
            await api.post(CHAT, json=body, headers={"x-request-id": f"of-{name}"})
        before = await api.get("/dashboard/requests/of-beta")
        assert (await api.post("/v1/models/beta/unload")).status_code == 200
        after = await api.get("/dashboard/requests/of-beta")
        missing = await api.get("/dashboard/requests/of-gamma")
    assert (after.status_code, after.json()) == (200, before.json())
    assert (after.json()["model"], after.json()["saved_s"]) == ("beta", 1.0)  # two tokens of every prompt are cached
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "request_not_known")


@pytest.mark.parametrize("names", [("alpha", "beta"), ("beta", "alpha"), ("beta", None), (None, "beta")])
async def test_the_newest_request_of_an_id_is_told_whichever_model_it_is_for(names: tuple[str | None, ...]) -> None:
    several = make_several({"alpha": 1, "beta": 1}, BIG)
    async with http(several.app) as api:
        for name in names:
            body = {"model": name or "gamma", "messages": MESSAGES}
            answer = await api.post(CHAT, json=body, headers={"x-request-id": "same"})
            assert answer.status_code == (404 if name is None else 200)
        story = (await api.get("/dashboard/requests/same")).json()
    assert story["model"] == names[-1]


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
    assert several.residence.resident("alpha").num_users == 0
    assert not several.residence.resident("alpha").waiters


async def test_an_adapter_has_its_model_loaded_and_stays_known_while_that_is_unloaded(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    needs = {"a": 600 << 20, "b": 600 << 20}
    several = make_several(needs, 900 << 20, enable_lora=True, lora=LoraConfig(adapter_dir=str(tmp_path)))
    make_engine = several.make_engine

    def with_adapter(name: str) -> FakeEngine:
        engine = make_engine(name)
        engine.adapters["x"] = AdapterInfo(digest=b"X", rank=8, num_bytes=1)
        return engine

    several.make_engine = with_adapter  # type: ignore[method-assign]
    async with http(several.app) as api:
        body = {"lora_name": "x of a", "lora_path": "x", "base_model_name": "a"}
        loaded = await api.post("/v1/load_lora_adapter", json=body)
        assert loaded.status_code == 200, loaded.text
        answers = [
            (await api.post("/v1/completions", json={"model": name, "prompt": "p"})).json()["model"]
            for name in ("b", "x of a", "b")
        ]
        card = (await api.get("/v1/models/x of a")).json()
    assert answers == ["b", "x of a", "b"]
    assert several.num_loads == {"a": 2, "b": 2}
    assert several.engines["a"][1].requests[0].adapter is not None
    assert (card["parent"], card["status"]["value"]) == ("a", "unloaded")
    await several.residence.close()
