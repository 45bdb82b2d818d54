"""Several models over HTTP: what operators and clients say of when a model is loaded."""

import asyncio

import pytest

from server.served.loadable_model import ModelState
from tests.helpers.fake_client import http
from tests.helpers.several import make_several
from tests.helpers.several_requests import BIG, ask, until

pytestmark = pytest.mark.fast


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
        await until(lambda: "alpha" in several.engines)
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
            await until(lambda: several.loader.model("alpha").must_unload)
            waiting = asyncio.create_task(ask(several, "alpha"))
            await until(lambda: several.loader.model("alpha").waiters)
        assert (await asked).status_code == 200
        assert await waiting == "alpha"
    assert several.num_loads["alpha"] == 2


async def test_a_load_that_cannot_come_to_be_is_answered() -> None:
    several = make_several({"alpha": 8, "beta": 6}, 10, pinned=("alpha",))
    await ask(several, "alpha")
    async with asyncio.timeout(20), http(several.app) as api:
        answer = await api.post("/v1/models/beta/load")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_not_loaded")


async def test_an_operator_hears_that_another_one_asked_for_the_opposite() -> None:
    several = make_several({"alpha": 6, "beta": 6}, 10)
    model = several.app.state.context.models.find("alpha")
    async with asyncio.timeout(20), http(several.app) as api, model.in_use():
        asked = asyncio.create_task(api.post("/v1/models/beta/load"))
        await until(lambda: several.loader.model("beta").is_load_requested)
        unloaded = await api.post("/v1/models/beta/unload")
        answer = await asked
    assert (unloaded.status_code, answer.status_code) == (200, 503)
    assert "another operator" in answer.json()["error"]["message"]


async def test_ollamas_clients_say_how_long_a_model_is_kept() -> None:
    several = make_several({"alpha": 1}, BIG)
    async with http(several.app) as api:
        loaded = await api.post("/api/generate", json={"model": "alpha", "keep_alive": "1h"})
        (running,) = (await api.get("/api/ps")).json()["models"]
        wrong = await api.post("/api/generate", json={"model": "alpha", "keep_alive": "soon"})
        unloaded = await api.post("/api/generate", json={"model": "alpha", "keep_alive": 0})
        await until(lambda: several.loader.model("alpha").state is ModelState.UNLOADED)
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
    assert several.loader.model("alpha").state is ModelState.LOADED
