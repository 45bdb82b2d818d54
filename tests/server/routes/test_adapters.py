"""Adapters over HTTP: names, cards, loading and unloading, and who may do what."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from engine.config import EngineConfig
from engine.errors import AdapterUnusable, OptionError
from engine.protocol import AdapterInfo, AdapterRef, AdapterStats, StepStats
from server.app import create_app
from server.config.lora import LoraConfig
from server.config.models import ModelEntry, ModelsConfig
from server.config.server import ServerConfig
from server.metrics.values import Metrics
from server.text.chat_templates.direct_templates import DirectTemplates
from tests.helpers.fake_client import MODEL, FakeClient, http, says
from tests.helpers.keys import bearer, entry, write_keys

pytestmark = pytest.mark.fast

FT = "ft:org/tiny:team::abc123"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("x", "y"):
        (tmp_path / "adapters" / name).mkdir(parents=True)
        (tmp_path / "adapters" / name / "adapter_config.json").write_text("{}")
    return tmp_path / "adapters"


@pytest.fixture
def client() -> FakeClient:
    client = FakeClient(says("hi"))
    client.adapters = {"x": _info(b"X"), "y": _info(b"Y")}
    return client


def _info(digest: bytes) -> AdapterInfo:
    return AdapterInfo(digest=digest, rank=16, num_bytes=4096, base="org/other")


def _app(client: FakeClient, folder: Path | None, *, enable: bool = True, modules: tuple[str, ...] = ()) -> FastAPI:
    lora = LoraConfig(modules, None if folder is None else str(folder))
    engine = EngineConfig(model=MODEL, enable_lora=enable)
    return create_app(
        client, ServerConfig(served_model_name=(MODEL,), lora=lora), engine, Metrics(MODEL), templates=DirectTemplates()
    )


async def _load(api: httpx.AsyncClient, name: str, path: str, **fields: Any) -> httpx.Response:
    return await api.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": path, **fields})


async def _ask(api: httpx.AsyncClient, model: str) -> httpx.Response:
    return await api.post("/v1/completions", json={"model": model, "prompt": "a"})


async def test_a_loaded_adapter_answers_under_its_exact_name(client: FakeClient, folder: Path) -> None:
    async with http(_app(client, folder)) as api:
        loaded = await _load(api, FT, "x")
        answer = await _ask(api, FT)
        base = await _ask(api, MODEL)
        other = await _ask(api, "ft:org/tiny:team::abc")
    assert (loaded.status_code, loaded.text) == (200, f"Success: LoRA adapter '{FT}' added successfully.")
    assert answer.json()["model"] == FT
    assert base.json()["model"] == MODEL
    assert other.status_code == 404
    assert [request.adapter for request in client.requests] == [AdapterRef(FT, str(folder / "x"), b"X"), None]


async def test_chats_messages_and_ollama_have_adapters_too(client: FakeClient, folder: Path) -> None:
    chat = [{"role": "user", "content": "hi"}]
    async with http(_app(client, folder)) as api:
        await _load(api, "x", "x")
        answers = [
            await api.post("/v1/chat/completions", json={"model": "x", "messages": chat}),
            await api.post("/v1/messages", json={"model": "x", "messages": chat, "max_tokens": 5}),
            await api.post("/v1/responses", json={"model": "x", "input": "hi"}),
            await api.post("/api/chat", json={"model": "x", "messages": chat, "stream": False}),
        ]
    assert [answer.json()["model"] for answer in answers] == ["x"] * 4
    assert all(request.adapter is not None for request in client.requests)


async def test_all_choices_of_a_request_have_one_version(client: FakeClient, folder: Path) -> None:
    async with http(_app(client, folder)) as api:
        await _load(api, "x", "x")
        await api.post("/v1/completions", json={"model": "x", "prompt": ["a", "b"], "n": 2})
    assert {request.adapter.digest for request in client.requests if request.adapter} == {b"X"}
    assert len(client.requests) == 4


async def test_a_card_names_the_adapters_model_and_folder(client: FakeClient, folder: Path) -> None:
    async with http(_app(client, folder)) as api:
        await _load(api, FT, "x")
        listed = (await api.get("/v1/models")).json()
        card = (await api.get(f"/v1/models/{FT}")).json()
    assert [each["id"] for each in listed["data"]] == [MODEL, FT]
    assert listed["data"][1] == card
    assert (card["parent"], card["root"]) == (MODEL, str(folder / "x"))
    assert listed["data"][0]["parent"] is None
    assert card["headrace"]["adapter"] == {"rank": 16, "size_bytes": 4096, "trained_on": "org/other"}


async def test_a_second_load_needs_load_inplace_and_then_answers_change_at_once(
    client: FakeClient, folder: Path
) -> None:
    async with http(_app(client, folder)) as api:
        await _load(api, "x", "x")
        again = await _load(api, "x", "y")
        await _ask(api, "x")
        in_place = await _load(api, "x", "y", load_inplace=True)
        await _ask(api, "x")
    assert again.status_code == 400
    assert again.json()["error"]["message"].startswith("The lora adapter 'x' has already been loaded.")
    assert in_place.status_code == 200
    assert [request.adapter.digest for request in client.requests if request.adapter] == [b"X", b"Y"]
    assert client.forgotten == [b"X"]


async def test_an_unloaded_adapter_is_unknown_and_the_engine_may_forget_it(client: FakeClient, folder: Path) -> None:
    async with http(_app(client, folder)) as api:
        await _load(api, "x", "x")
        await _load(api, "also x", "x")
        first = await api.post("/v1/unload_lora_adapter", json={"lora_name": "x"})
        assert client.forgotten == [], "another name means the same"
        deleted = await api.delete("/v1/models/also x")
        unknown = [await _ask(api, "x"), await api.post("/v1/unload_lora_adapter", json={"lora_name": "x"})]
        base = await api.delete(f"/v1/models/{MODEL}")
    assert first.text == "Success: LoRA adapter 'x' removed successfully."
    assert deleted.json() == {"id": "also x", "object": "model", "deleted": True}
    assert client.forgotten == [b"X"]
    assert [answer.status_code for answer in unknown] == [404, 404]
    assert "cannot be found" in unknown[1].json()["error"]["message"]
    assert [answer.json()["error"]["param"] for answer in unknown] == ["model", "lora_name"]
    assert base.status_code == 400


@pytest.mark.parametrize(
    ("name", "path", "says_what", "param"),
    [
        ("x", "nowhere", "does not exist", "lora_path"),
        ("x", "../secret", "below the server's --adapter-dir", "lora_path"),
        ("x", "/etc", "below the server's --adapter-dir", "lora_path"),
        ("x", ".", "below the server's --adapter-dir", "lora_path"),
        ("x", "out", "below the server's --adapter-dir", "lora_path"),
        ("x", "linked", "below the server's --adapter-dir", "lora_path"),
        ("x", "a\0b", "below the server's --adapter-dir", "lora_path"),
        ("x", "a" * 5000, "below the server's --adapter-dir", "lora_path"),
        ("x", "https://example.org/adapter", "does not exist", "lora_path"),
        ("", "x", "lora_name is empty", "lora_name"),
        (MODEL, "x", "is a model of this server", "lora_name"),
        ("x", "broken", "the tensor q is too wide", "lora_path"),
    ],
)
async def test_what_cannot_be_loaded_is_refused_with_its_reason(
    client: FakeClient, folder: Path, name: str, path: str, says_what: str, param: str
) -> None:
    secret = folder.parent / "secret"
    secret.mkdir()
    (secret / "adapter_model.safetensors").write_text("")
    (folder / "out").symlink_to(secret)
    (folder / "linked").mkdir()
    (folder / "linked" / "adapter_model.safetensors").symlink_to(secret / "adapter_model.safetensors")
    (folder / "broken").mkdir()
    client.adapters["broken"] = AdapterUnusable("the tensor q is too wide")
    async with http(_app(client, folder)) as api:
        refused = await _load(api, name, path)
        listed = (await api.get("/v1/models")).json()["data"]
    assert refused.status_code == 400
    assert says_what in refused.json()["error"]["message"]
    assert refused.json()["error"]["param"] == param
    assert len(listed) == 1


async def test_a_server_that_was_not_told_to_serve_adapters_says_so(client: FakeClient, folder: Path) -> None:
    async with http(_app(client, None, enable=False)) as api:
        without = await _load(api, "x", "x")
    async with http(_app(client, None)) as api:
        without_folder = await _load(api, "x", "x")
    assert "--enable-lora" in without.json()["error"]["message"]
    assert "--adapter-dir" in without_folder.json()["error"]["message"]
    with pytest.raises(OptionError, match="--enable-lora"):
        _app(client, folder, enable=False)


async def test_adapters_are_loaded_and_unloaded_by_operators_alone(client: FakeClient, folder: Path) -> None:
    keys = write_keys(folder.parent / "keys", entry("admin", admin=True), entry("user"), entry("limited", models=["y"]))
    lora = LoraConfig(adapter_dir=str(folder))
    config = ServerConfig(lora=lora, api_keys_file=keys)
    app = create_app(client, config, EngineConfig(model=MODEL, enable_lora=True), Metrics(MODEL))
    async with (
        http(app, **bearer("admin")) as admin,
        http(app, **bearer("user")) as user,
        http(app, **bearer("limited")) as limited,
    ):
        refused = [
            await _load(user, "x", "x"),
            await user.post("/v1/unload_lora_adapter", json={"lora_name": "x"}),
            await user.delete("/v1/models/x"),
        ]
        assert (await _load(admin, "x", "x")).status_code == 200
        assert (await _load(admin, "y", "y")).status_code == 200
        asked = [await _ask(user, "x"), await _ask(limited, "x"), await _ask(limited, "y"), await _ask(limited, MODEL)]
        seen = [card["id"] for card in (await limited.get("/v1/models")).json()["data"]]
    assert [answer.status_code for answer in refused] == [403, 403, 403]
    assert [answer.status_code for answer in asked] == [200, 404, 200, 404]
    assert seen == ["y"]


async def test_with_several_models_an_adapter_names_its_base(client: FakeClient, folder: Path) -> None:
    small, plain = FakeClient(says("small")), FakeClient(says("plain"))
    small.adapters = client.adapters
    entries = (
        ModelEntry(("big", "alias"), EngineConfig(model="a", enable_lora=True)),
        ModelEntry(("small",), EngineConfig(model="b", enable_lora=True)),
        ModelEntry(("plain",), EngineConfig(model="c")),
    )
    config = ServerConfig(models=ModelsConfig(entries), lora=LoraConfig(adapter_dir=str(folder)))
    clients = {"big": client, "small": small, "plain": plain}
    app = create_app(clients, config, EngineConfig(), Metrics("big"))
    async with http(app) as api:
        refused = [await _load(api, "x", "x"), await _load(api, "x", "x", base_model_name="plain")]
        await _load(api, "x", "x", base_model_name="alias")
        await _load(api, "y", "y", base_model_name="small")
        await _ask(api, "x")
        await _ask(api, "y")
        parents = [card["parent"] for card in (await api.get("/v1/models")).json()["data"]]
    assert [answer.json()["error"]["param"] for answer in refused] == ["base_model_name"] * 2
    assert [request.adapter.name for request in client.requests if request.adapter] == ["x"]
    assert [request.adapter.name for request in small.requests if request.adapter] == ["y"]
    assert parents == [None, None, None, None, "big", "small"]


async def test_adapters_of_the_options_answer_before_the_start_has_come_to_them(
    client: FakeClient, folder: Path
) -> None:
    app = _app(client, None, modules=(f"x={folder / 'x'}", f'{{"name": "y", "path": "{folder / "y"}"}}'))
    models = app.state.context.models
    async with http(app) as api:
        answer = await _ask(api, "x")
        known = [adapter.info is not None for adapter in models.adapters]
        await models.adapters.read_all(models.default)
    assert answer.status_code == 200
    assert known == [True, False]
    assert [(adapter.name, adapter.info is not None) for adapter in models.adapters] == [("x", True), ("y", True)]


async def test_requests_that_come_together_wait_for_one_read(
    client: FakeClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths: list[str] = []
    load = client.load_adapter

    async def load_slowly(path: str) -> AdapterInfo:
        paths.append(path)
        for _ in range(50):  # turns of the loop, in which the others come
            await asyncio.sleep(0)
        return await load(path)

    monkeypatch.setattr(client, "load_adapter", load_slowly)
    async with http(_app(client, None, modules=(f"x={folder / 'x'}",))) as api:
        answers = await asyncio.gather(*(_ask(api, "x") for _ in range(5)))
    assert [answer.status_code for answer in answers] == [200] * 5
    assert len(paths) == 1


async def test_an_adapter_that_cannot_be_read_is_the_request_s_error(client: FakeClient, folder: Path) -> None:
    client.adapters["x"] = AdapterUnusable("it has no matrices")
    async with http(_app(client, None, modules=(f"x={folder / 'x'}",))) as api:
        answer = await _ask(api, "x")
    assert answer.status_code == 400
    assert "it has no matrices" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("modules", "match"),
    [
        (("x",), "NAME=PATH"),
        (("=x",), "NAME=PATH"),
        (("x=/a", "x=/b"), "two adapters"),
        (('{"name": "x"}',), "missing required field `path`"),
        (('{"name": "x", "path": "/a", "scale": 2}',), "unknown field `scale`"),
        (("{x",), "must be a JSON object"),
        ((f"{MODEL}=/a",), "is a model's"),
        (('{"name": "x", "path": "/a", "base_model_name": "other"}',), "other"),
    ],
)
def test_modules_that_cannot_be_meant_end_the_start(client: FakeClient, modules: tuple[str, ...], match: str) -> None:
    with pytest.raises(OptionError, match=match):
        _app(client, None, modules=modules)


def test_metrics_tell_which_adapters_run_and_wait_in_one_series() -> None:
    metrics = Metrics(MODEL, has_vllm_names=True)
    running = AdapterStats(running=["x", "y"], waiting=["z"], slots_total=4, slots_used=2, slots_cached=1, fill_s=[0.1])
    metrics.on_step(StepStats(adapters=running))
    metrics.on_step(StepStats(adapters=AdapterStats(running=["z"], slots_total=4, slots_used=1, evictions=1)))
    text = metrics.scrape("")[0].decode()
    info = [line for line in text.splitlines() if line.startswith("headrace_lora_requests_info{")]
    assert len(set(info)) == 1
    assert 'running_lora_adapters="z",waiting_lora_adapters=""' in info[0]
    assert 'max_lora="4"' in info[0]
    assert 'headrace_lora_slots{model_name="org/tiny",state="empty"} 3.0' in text
    assert 'headrace_lora_loads_total{model_name="org/tiny"} 1.0' in text
    assert 'headrace_lora_evictions_total{model_name="org/tiny"} 1.0' in text
    assert "vllm:lora_requests_info{" in text


async def test_a_refused_path_lists_what_the_folder_has(client: FakeClient, folder: Path) -> None:
    async with http(_app(client, folder)) as api:
        for path in ("nowhere", "../x"):
            message = (await _load(api, "a", path)).json()["error"]["message"]
            assert message.endswith("; the folder has 'x', 'y'")


async def test_a_folder_named_at_the_start_can_be_loaded_again_without_adapter_dir(
    client: FakeClient, folder: Path
) -> None:
    named, other = str(folder / "x"), str(folder / "y")
    async with http(_app(client, None, modules=(f"a={named}",))) as api:
        again = await _load(api, "a", named, load_inplace=True)
        refused = await _load(api, "b", other)
    assert again.status_code == 200, again.text
    assert refused.status_code == 400
    message = refused.json()["error"]["message"]
    assert (
        "start it with --adapter-dir, the folder that they are in, or load a folder of --lora-modules again ("
        in message
    )
