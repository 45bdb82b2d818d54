"""Several models over HTTP: cards, probes, metrics and pages that tell their states."""

import asyncio
import json

import pytest

from server.served import loadable_model
from server.served.loadable_model import ModelState
from tests.helpers.fake_client import http
from tests.helpers.several import make_several
from tests.helpers.several_requests import BIG, CHAT, MESSAGES, ask, until

pytestmark = pytest.mark.fast


async def test_cards_and_health_tell_each_models_state() -> None:
    several = make_several({"alpha": 1, "beta": 1}, BIG)
    await ask(several, "alpha")
    several.loads_at_once = False
    waiting = asyncio.create_task(ask(several, "beta"))
    await until(lambda: "beta" in several.engines)
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


async def test_probes_tell_a_failure_and_not_its_reason() -> None:
    several = make_several({"alpha": 1}, BIG)
    await ask(several, "alpha")
    several.engine("alpha").die("no room on /secret")
    await until(lambda: several.loader.model("alpha").state is ModelState.FAILED)
    async with http(several.app) as api:
        for path in ("/health", "/ready"):
            answer = await api.get(path)
            assert (answer.status_code, answer.json()["status"]) == (503, "failed")
            assert "secret" not in answer.text
            assert "retry-after" not in answer.headers


async def test_a_server_whose_models_have_all_failed_is_ready_again_when_its_own_try_succeeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loadable_model, "_RETRY_FAILED_S", 0.0)
    several = make_several({"alpha": 1}, BIG)
    await ask(several, "alpha")
    several.loads_at_once = False
    several.engine("alpha").die("it was killed")
    await until(lambda: several.num_loads["alpha"] == 2)
    async with http(several.app) as api:
        meanwhile = await api.get("/ready")
        several.engine("alpha").may_load.set()
        await until(lambda: several.loader.model("alpha").state is ModelState.LOADED)
        afterwards = await api.get("/ready")
    assert (meanwhile.status_code, meanwhile.json()["status"]) == (503, "loading")
    assert afterwards.status_code == 200


async def test_a_load_balancer_may_ask_about_one_model() -> None:
    several = make_several({"alpha": 1, "beta": 1}, BIG)
    await ask(several, "alpha")
    await ask(several, "beta")
    several.engine("alpha").die("it was killed")
    await until(lambda: several.loader.model("alpha").state is ModelState.FAILED)
    several.engine("beta").num_waiting = 5
    async with http(several.app) as api:
        probes = {name: await api.get("/ready", params={"model": name}) for name in ("alpha", "beta", "gamma", "")}
        whole = await api.get("/ready")
    assert {name: probe.status_code for name, probe in probes.items()} == {
        "alpha": 503,
        "beta": 200,
        "gamma": 404,
        "": 404,
    }
    assert probes["alpha"].json()["status"] == "failed"
    assert [each["state"] for each in probes["beta"].json()["models"]] == ["loaded"]
    assert "alpha" not in probes["gamma"].text
    assert (whole.status_code, whole.json()["status"]) == (200, "degraded")


async def test_a_full_queue_of_one_model_makes_that_model_alone_unready() -> None:
    several = make_several({"alpha": 1, "beta": 1}, BIG, ready_max_waiting=8)
    await ask(several, "alpha")
    await ask(several, "beta")
    several.engine("alpha").capacity, several.engine("beta").num_waiting = 0, 9
    async with http(several.app) as api:
        probes = [await api.get("/ready", params={"model": name}) for name in ("alpha", "beta")]
        several.engine("beta").num_waiting = 8
        probes += [await api.get("/ready", params={"model": "beta"}), await api.get("/ready")]
    assert [(probe.status_code, probe.json()["status"]) for probe in probes] == [
        (503, "overloaded"),
        (503, "overloaded"),
        (200, "ok"),
        (200, "ok"),
    ]


async def test_metrics_have_each_models_series() -> None:
    several = make_several({"alpha": 1, "beta": 1}, BIG)
    await ask(several, "alpha")
    await ask(several, "beta")
    await ask(several, "beta")
    async with http(several.app) as api:
        text = (await api.get("/metrics")).text
    for name, count in (("alpha", 1), ("beta", 2)):
        assert f'headrace_request_success_total{{finished_reason="length",model_name="{name}"}} {count}.0' in text
        assert f'headrace_engine_ready{{model_name="{name}"}} 1.0' in text


async def test_a_server_is_ready_when_the_models_of_its_start_are() -> None:
    several = make_several({"alpha": 1, "beta": 1}, BIG)
    several.app.state.context.models.have_started = False
    await ask(several, "alpha")
    async with http(several.app) as api:
        early = await api.get("/ready")
        several.app.state.context.models.have_started = True
        later = await api.get("/ready")
    assert (early.status_code, early.json()["status"]) == (503, "loading")
    assert (later.status_code, later.json()["status"]) == (200, "ok")


async def test_the_dashboard_shows_one_model_and_lists_all() -> None:
    several = make_several({"alpha": 1, "beta": 1}, BIG)
    await ask(several, "beta")
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
