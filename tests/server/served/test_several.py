"""Several models over HTTP: each request is answered by its own, which is loaded for it where it is not."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from engine.client.interface import EngineState
from engine.errors import ModelUnusable, OptionError, StartupError
from engine.protocol import AdapterInfo
from server.config.lora import LoraConfig
from server.served.loadable_model import ModelState
from server.served.memory_plan import PROCESS_BYTES
from tests.helpers.asgi import RawRequest
from tests.helpers.fake_client import engine_info, http, says
from tests.helpers.several import FakeEngine, make_several
from tests.helpers.several_requests import BIG, CHAT, MESSAGES, ask, bodies, until

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("number", range(6))
async def test_every_protocol_is_answered_by_the_model_that_it_names(number: int) -> None:
    several = make_several({"alpha": 1, "beta": 1}, BIG)
    async with http(several.app) as api:
        for name in ("alpha", "beta", "alpha"):
            path, body = bodies(name)[number]
            response = await api.post(path, json=body)
            assert response.status_code == 200, response.text
            assert f'"{name}"' in response.text.replace(" ", "")
            assert [len(several.engine(name).requests)] == [2 if several.num_loads["beta"] and name == "alpha" else 1]
    assert several.num_loads == {"alpha": 1, "beta": 1}


async def test_every_model_has_its_own_fingerprint() -> None:
    several = make_several({"a": 1, "b": 1}, limit=2)
    several.infos = {name: engine_info(system_fingerprint=f"default/1.0/{name}") for name in "ab"}
    async with http(several.app) as api:
        for name in "ab":
            answer = await api.post("/v1/completions", json={"model": name, "prompt": "x"})
            assert answer.json()["system_fingerprint"] == f"default/1.0/{name}"


@pytest.mark.parametrize("folder", [None, "/kv/fingerprint"])
async def test_a_loaded_model_counts_blocks_on_their_way_to_disk(folder: str | None) -> None:
    several = make_several({"a": 1 << 40}, limit=1 << 40)
    info = several.infos["a"] = engine_info(kv_bytes=8 << 20, kv_folder=folder)
    await ask(several, "a")
    moving_bytes = 0 if folder is None else (256 << 20) + (2 << 20)
    assert several.loader.used_bytes["cpu"] == info.weight_bytes + (8 << 20) + PROCESS_BYTES + moving_bytes


async def test_a_swap_between_two_that_do_not_fit_together_loses_no_request() -> None:
    several = make_several({"alpha": 6, "beta": 6, "gamma": 3}, 10)
    rng = random.Random(1)
    names = [rng.choice(["alpha", "beta", "gamma"]) for _ in range(60)]
    answers = await asyncio.gather(*(ask(several, name) for name in names))
    assert list(answers) == names
    assert several.loader.used_bytes["cpu"] <= 10
    running = [engine for each in several.engines.values() for engine in each if not engine.has_stopped]
    assert len(running) <= 2


async def test_a_model_with_open_requests_is_not_unloaded() -> None:
    several = make_several({"alpha": 6, "beta": 6}, 10)
    await ask(several, "alpha")
    engine = several.engine("alpha")
    engine.script = lambda request: [*says("alpha")(request)[:2], None]
    async with RawRequest(several.app, CHAT, {"model": "alpha", "messages": MESSAGES, "stream": True}) as stream:
        await stream.until(lambda: b"data" in stream.body)
        waiting = asyncio.create_task(ask(several, "beta"))
        await until(lambda: len(several.loader.model("beta").waiters) == 1)
        assert (engine.has_stopped, waiting.done()) == (False, False)
        stream.disconnect()
        await stream.ended()
    assert await waiting == "beta"
    assert engine.has_stopped


async def test_work_that_is_no_request_holds_its_model_too() -> None:
    several = make_several({"alpha": 6, "beta": 6}, 10)
    model = several.app.state.context.models.find("alpha")
    async with model.in_use():
        waiting = asyncio.create_task(ask(several, "beta"))
        await until(lambda: several.loader.model("beta").waiters)
        assert several.loader.model("alpha").state is ModelState.LOADED
    assert await waiting == "beta"


async def test_one_that_fails_takes_nothing_with_it_and_is_tried_again() -> None:
    several = make_several({"alpha": 1, "beta": 1}, BIG)
    await ask(several, "alpha")
    await ask(several, "beta")
    several.engine("alpha").die("it was killed")
    await until(lambda: several.loader.model("alpha").state is ModelState.FAILED)
    async with http(several.app) as api:
        refused = await api.post(CHAT, json={"model": "alpha", "messages": MESSAGES})
        health, cards = await api.get("/health"), await api.get("/v1/models")
    assert "it was killed" not in cards.text  # it may have paths; the log and operators have it
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
    assert "the model has failed; try again in" in refused.json()["error"]["message"]
    assert "it was killed" not in refused.text
    assert (health.status_code, health.json()["status"]) == (200, "degraded")
    assert await ask(several, "beta") == "beta"
    await several.loader.ensure_loaded("alpha")
    assert await ask(several, "alpha") == "alpha"


async def test_one_that_does_not_fit_now_is_refused_with_the_time_to_come_back() -> None:
    several = make_several({"alpha": 8, "beta": 6}, 10, pinned=("alpha",))
    await ask(several, "alpha")
    async with http(several.app) as api:
        refused = await api.post(CHAT, json={"model": "beta", "messages": MESSAGES})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_not_loaded")
    assert int(refused.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("failure", "header"),
    [
        (KeyError("weights"), ("retry-after", "10")),
        (StartupError("the hub does not answer"), ("retry-after", "10")),
        (ModelUnusable("no such tensor"), ("x-should-retry", "false")),
        (OptionError("no such option"), ("x-should-retry", "false")),
    ],
)
async def test_a_failure_to_load_leaves_no_model_loading_and_says_whether_to_retry(
    failure: Exception, header: tuple[str, str]
) -> None:
    several = make_several({"alpha": 1}, BIG)
    several.loads_at_once = False
    async with asyncio.timeout(20), http(several.app) as api:
        asked = asyncio.create_task(api.post(CHAT, json={"model": "alpha", "messages": MESSAGES}))
        await until(lambda: "alpha" in several.engines)
        several.engine("alpha").failure = failure
        several.engine("alpha").may_load.set()
        refused = await asked
        (card,) = (await api.get("/v1/models")).json()["data"]
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_failed")
    assert [each for each in refused.headers.items() if each[0] in ("retry-after", "x-should-retry")] == [header]
    assert str(failure) not in refused.text
    assert several.loader.model("alpha").state is ModelState.FAILED
    assert card["status"] == {"value": "failed"}
    assert "capabilities" not in card["headrace"]
    assert several.engine("alpha").has_stopped


async def test_one_whose_chat_template_is_damaged_fails_for_good_and_says_why() -> None:
    several = make_several({"alpha": 1}, BIG, chat_template="{% if")
    async with http(several.app) as api:
        refused = await api.post(CHAT, json={"model": "alpha", "messages": MESSAGES})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_failed")
        assert "the chat template cannot be read" in refused.json()["error"]["message"]
        assert refused.headers["x-should-retry"] == "false"
        assert (await api.post(CHAT, json={"model": "alpha", "messages": MESSAGES})).json() == refused.json()


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


async def test_an_engine_that_is_started_again_refuses_for_the_moment() -> None:
    several = make_several({"alpha": 1}, BIG)
    await ask(several, "alpha")
    several.engine("alpha").state = EngineState.LOADING
    async with http(several.app) as api:
        refused = await api.post(CHAT, json={"model": "alpha", "messages": MESSAGES})
        card = (await api.get("/v1/models/alpha")).json()
    assert refused.status_code == 503
    assert card["status"]["value"] == "loading"


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
    await several.loader.close()
