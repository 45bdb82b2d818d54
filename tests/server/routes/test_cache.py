"""Named prefixes over HTTP: what is pinned, for whose requests, and how they are listed and deleted."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from engine.config import EngineConfig
from engine.errors import EngineDied
from engine.protocol import AdapterInfo, FinishReason, RequestOutput
from server.app import create_app
from server.config.lora import LoraConfig
from server.config.models import ModelEntry, ModelsConfig
from server.config.server import ServerConfig
from server.metrics.values import Metrics
from server.prefixes import named
from tests.helpers.asgi import RawRequest
from tests.helpers.fake_client import MODEL, FakeClient, engine_info, http, make_app, prompt_text, says
from tests.helpers.fake_pooling import pooling_info
from tests.helpers.keys import bearer, entry, write_keys

pytestmark = pytest.mark.fast

SYSTEM = {"role": "system", "content": "You help customers of a bicycle shop."}
TEXT = "A prompt that is longer than two blocks of sixteen."


@pytest.fixture
def client() -> FakeClient:
    return FakeClient(says("x"))


@pytest.fixture
def app(client: FakeClient) -> FastAPI:
    return make_app(client)


async def _pin(app: FastAPI, **body: Any) -> tuple[int, Any]:
    async with http(app) as api:
        response = await api.post("/v1/cache/pin", json={"name": "shop", **body})
    return response.status_code, response.json()


async def _refusal(app: FastAPI, **body: Any) -> tuple[int, str]:
    status, answer = await _pin(app, **body)
    return status, answer["error"]["message"]


async def test_a_text_is_computed_once_and_pinned(client: FakeClient, app: FastAPI) -> None:
    first, second = await _pin(app, prompt=TEXT), await _pin(app, prompt=TEXT)
    assert first[0] == second[0] == 200
    fields = ("name", "model", "tokens", "cached_tokens", "blocks", "memory_blocks", "where")
    assert [first[1][name] for name in fields] == ["shop", MODEL, 48, 2, 3, 3, "pinned"]
    assert second[1]["cached_tokens"] == 48
    assert len(client.requests) == 1
    assert client.requests[0].sampling.max_tokens == 1
    assert client.pinned["shop"].prompt_ids == client.requests[0].prompt_ids


async def test_a_chat_is_pinned_up_to_the_message_that_follows(client: FakeClient, app: FastAPI) -> None:
    await _pin(app, messages=[SYSTEM])
    assert prompt_text(client) == f"system\n{SYSTEM['content']}\nuser\n"


async def test_a_chat_that_waits_for_an_answer_is_pinned_as_a_request_sends_it(
    client: FakeClient, app: FastAPI
) -> None:
    messages = [SYSTEM, {"role": "user", "content": "Hello"}]
    await _pin(app, messages=messages)
    async with http(app) as api:
        await api.post("/v1/chat/completions", json={"messages": messages})
    assert client.requests[0].prompt_ids == client.requests[1].prompt_ids


async def test_tools_are_part_of_a_prefix() -> None:
    client = FakeClient(says("x"), engine_info(max_model_len=4000))
    client.max_pinned = 1000
    tool = {"type": "function", "function": {"name": "find_bicycle", "parameters": {"type": "object"}}}
    assert (await _pin(make_app(client), messages=[SYSTEM], tools=[tool]))[0] == 200
    assert "find_bicycle" in prompt_text(client)


async def test_prefixes_are_listed_with_their_last_use_and_deleted(client: FakeClient, app: FastAPI) -> None:
    await _pin(app, prompt=TEXT)
    async with http(app) as api:
        listed = (await api.get("/v1/cache")).json()
        deleted = await api.delete("/v1/cache/shop")
        after = (await api.get("/v1/cache")).json()
        again = await api.delete("/v1/cache/shop")
    assert [(each["name"], each["where"]) for each in listed["data"]] == [("shop", "pinned")]
    assert listed["data"][0]["last_used_at"] >= listed["data"][0]["created_at"]
    assert deleted.json() == {"name": "shop", "object": "cache.prefix", "deleted": True}
    assert (after["data"], client.pinned) == ([], {})
    assert (again.status_code, again.json()["error"]["code"]) == (404, "prefix_not_found")


async def test_a_pin_without_a_prompt_is_of_a_known_name(client: FakeClient, app: FastAPI) -> None:
    status, _ = await _refusal(app)
    await _pin(app, prompt=TEXT)
    client.pinned.clear()
    again = await _pin(app)
    assert (status, again[0], again[1]["where"]) == (404, 200, "pinned")


async def test_a_pin_beyond_the_limit_is_refused_with_numbers_before_it_is_computed(
    client: FakeClient, app: FastAPI
) -> None:
    client.max_pinned = 2
    status, message = await _refusal(app, prompt=TEXT)
    assert status == 409
    assert "has 3 blocks; 2 of the KV cache may be pinned" in message
    assert client.requests == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"prompt": "short"}, "only whole blocks of 16 are kept"),
        ({"prompt": ["a", "b"]}, "prompt has 2 texts"),
        ({"prompt": TEXT, "messages": [SYSTEM]}, "both given"),
        ({"prompt": TEXT, "name": "../x"}, "name is '../x'; it must be 1 to 64 letters"),
        ({"prompt": TEXT * 9}, "tokens; the model takes 200"),
        ({"prompt": TEXT, "key": "nobody"}, "the keys file has no key of this name"),
        ({"prompt": [7, 9999]}, "9999"),
        ({"cache_salt": "x"}, "a known prefix keeps its own"),
    ],
)
async def test_a_body_is_refused_for(app: FastAPI, body: dict[str, Any], message: str) -> None:
    status, refusal = await _refusal(app, **body)
    assert status == 400
    assert message in refusal


@pytest.mark.parametrize("reason", ["recurrent layers", "generates no text", "caches no prefixes"])
async def test_a_model_whose_prefixes_cannot_be_kept_is_refused(reason: str) -> None:
    changes: dict[str, Any] = {"recurrent layers": {"num_states": 4}, "generates no text": {"pooling": pooling_info()}}
    client = FakeClient(says("x"), engine_info(**changes.get(reason, {})))
    engine = EngineConfig(model=MODEL, enable_prefix_caching=reason != "caches no prefixes")
    app = create_app(client, ServerConfig(served_model_name=(MODEL,)), engine, Metrics(MODEL))
    status, message = await _refusal(app, prompt=TEXT)
    assert status == 400
    assert reason in message


async def test_a_prefix_is_found_by_requests_of_the_key_that_is_named(client: FakeClient, tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys", entry("admin", admin=True), entry("ann"))
    app = create_app(client, ServerConfig(api_keys_file=keys), EngineConfig(model=MODEL), Metrics(MODEL))
    body = {"name": "shop", "prompt": TEXT, "cache_salt": "s"}
    async with http(app, **bearer("admin")) as admin, http(app, **bearer("ann")) as ann:
        refused = [
            await ann.post("/v1/cache/pin", json=body),
            await ann.get("/v1/cache"),
            await ann.delete("/v1/cache/shop"),
        ]
        await admin.post("/v1/cache/pin", json=body)
        await admin.post("/v1/cache/pin", json={**body, "key": "ann"})
        await ann.post("/v1/completions", json={"prompt": TEXT, "cache_salt": "s"})
    assert [response.status_code for response in refused] == [403, 403, 403]
    of_admin, for_ann, by_ann = (request.cache_salt for request in client.requests)
    assert of_admin != for_ann == by_ann


@pytest.mark.parametrize(
    ("options", "shares", "scope"),
    [({}, False, "key ann"), ({"cache_group": "sales:7"}, False, "group sales:7"), ({}, True, None)],
)
@pytest.mark.parametrize("salt", ["", "3:key"])
async def test_the_list_tells_whose_requests_find_a_prefix(
    client: FakeClient, tmp_path: Path, options: dict[str, Any], shares: bool, scope: str | None, salt: str
) -> None:
    keys = write_keys(tmp_path / "keys", entry("admin", admin=True), entry("ann", **options))
    config = ServerConfig(api_keys_file=keys, share_prefix_cache=shares)
    app = create_app(client, config, EngineConfig(model=MODEL), Metrics(MODEL))
    async with http(app, **bearer("admin")) as admin:
        body = {"name": "shop", "prompt": TEXT, "key": "ann", **({"cache_salt": salt} if salt else {})}
        pinned = await admin.post("/v1/cache/pin", json=body)
        (listed,) = (await admin.get("/v1/cache")).json()["data"]
    assert pinned.status_code == 200
    assert (listed["cache_scope"], listed["has_cache_salt"]) == (scope, bool(salt))


async def test_a_pin_is_made_though_its_client_leaves(client: FakeClient, app: FastAPI) -> None:
    may_pin, handle_prefix = asyncio.Event(), client.handle_prefix

    async def late_handle_prefix(*args: Any) -> Any:
        if client.requests:
            await may_pin.wait()
        return await handle_prefix(*args)

    client.handle_prefix = late_handle_prefix  # type: ignore[method-assign]
    async with RawRequest(app, "/v1/cache/pin", {"name": "shop", "prompt": TEXT}) as request:
        await request.until(lambda: len(client.requests) > 0)
        request.disconnect()
        for _ in range(20):
            await asyncio.sleep(0)
        may_pin.set()
        await request.ended()
    async with http(app) as api:
        listed = (await api.get("/v1/cache")).json()["data"]
    assert [each["where"] for each in listed] == ["pinned"]


async def test_a_second_prefix_of_a_name_replaces_the_first(client: FakeClient, app: FastAPI) -> None:
    await _pin(app, prompt=TEXT)
    _, answer = await _pin(app, prompt=TEXT[::-1])
    assert (answer["where"], len(client.pinned)) == ("pinned", 1)
    client.pinned.clear()
    await _restored(app, client)
    assert client.pinned["shop"].prompt_ids == client.requests[1].prompt_ids


async def test_a_prefix_of_an_adapter_is_computed_with_it(client: FakeClient, tmp_path: Path) -> None:
    (tmp_path / "sql").mkdir()
    client.adapters["sql"] = AdapterInfo(digest=b"S", rank=8, num_bytes=1)
    app = make_app(client, enable_lora=True, lora=LoraConfig(adapter_dir=str(tmp_path)))
    async with http(app) as api:
        await api.post("/v1/load_lora_adapter", json={"lora_name": "sql", "lora_path": "sql"})
        await api.post("/v1/completions", json={"prompt": TEXT, "model": "sql"})
    _, answer = await _pin(app, prompt=TEXT, model="sql")
    assert answer["model"] == "sql"
    assert client.pinned["shop"].adapter == client.requests[-1].adapter == client.requests[0].adapter
    assert client.pinned["shop"].adapter is not None


async def test_a_prefix_that_other_requests_displace_each_time_is_given_up(client: FakeClient, app: FastAPI) -> None:
    def forgets(request: Any) -> list[Any]:
        client.streams.clear()
        return says("x")(request)

    client.script = forgets
    original = client.submit

    def submit(*args: Any, **kwargs: Any) -> Any:
        stream = original(*args, **kwargs)
        client.streams.clear()
        return stream

    client.submit = submit  # type: ignore[method-assign]
    status, message = await _refusal(app, prompt=TEXT)
    assert status == 503
    assert "took its place" in message


async def test_an_error_of_the_computation_is_reported(client: FakeClient, app: FastAPI) -> None:
    client.script = lambda request: [RequestOutput(id=request.id, finish_reason=FinishReason.ERROR, error="made to")]
    assert await _refusal(app, prompt=TEXT) == (500, "the prefix could not be computed: made to")


async def test_pins_return_with_the_next_engine(client: FakeClient, app: FastAPI, caplog: Any) -> None:
    await _pin(app, prompt=TEXT)
    await _pin(app, name="other", prompt=TEXT + "!" * 16)
    client.pinned.clear()
    client.streams.clear()  # and with them the cache
    client.max_pinned = 4
    await _restored(app, client)
    assert list(client.pinned) == ["shop"]
    assert "the prefix other is not pinned any more" in caplog.text


async def test_pins_return_once_a_full_queue_has_room(
    client: FakeClient, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(named, "_RESTORE_AGAIN_S", 0.0)
    await _pin(app, prompt=TEXT)
    client.pinned.clear()
    client.streams.clear()
    client.capacity = 0
    prefixes = app.state.context.models.default.prefixes
    prefixes.engine_is_ready(client)
    for _ in range(50):
        await asyncio.sleep(0)
    assert client.pinned == {}
    client.capacity = 8
    await asyncio.wait_for(prefixes._restoration, 10)
    assert list(client.pinned) == ["shop"]


async def test_a_prefix_shorter_than_the_blocks_of_all_groups_is_refused() -> None:
    app = make_app(FakeClient(says("x"), engine_info(kv_block_sizes=[16, 24])))
    status, message = await _refusal(app, prompt=TEXT[:40])
    assert (status, "only whole blocks of 48 are kept" in message) == (400, True)


async def _restored(app: FastAPI, client: FakeClient) -> None:
    """An engine process has become ready, and its prefixes are pinned."""
    prefixes = app.state.context.models.default.prefixes
    prefixes.engine_is_ready(client)
    await asyncio.wait_for(prefixes._restoration, 10)


async def test_while_no_engine_is_ready_a_prefix_is_somewhere_unknown(client: FakeClient, app: FastAPI) -> None:
    await _pin(app, prompt=TEXT)

    async def dies(*_: object) -> Any:
        raise EngineDied("it died")

    client.handle_prefix = dies  # type: ignore[method-assign]
    async with http(app) as api:
        listed = (await api.get("/v1/cache")).json()["data"]
        deleted = await api.delete("/v1/cache/shop")
    assert [(each["where"], each["memory_blocks"], each["blocks"]) for each in listed] == [(None, None, 3)]
    assert deleted.status_code == 200


async def test_each_model_has_its_own_names(client: FakeClient) -> None:
    second = FakeClient(says("y"))
    entries = (ModelEntry(("big",), EngineConfig(model="a")), ModelEntry(("small",), EngineConfig(model="b")))
    config = ServerConfig(models=ModelsConfig(entries))
    app = create_app({"big": client, "small": second}, config, EngineConfig(), Metrics("big"))
    await _pin(app, prompt=TEXT)
    await _pin(app, prompt=TEXT, model="small")
    async with http(app) as api:
        listed = (await api.get("/v1/cache", params={"model": "small"})).json()["data"]
        vague = await api.delete("/v1/cache/shop")
        await api.delete("/v1/cache/shop", params={"model": "small"})
        left = (await api.get("/v1/cache")).json()["data"]
    assert [each["model"] for each in listed] == ["small"]
    assert vague.status_code == 400
    assert "'big', 'small'" in vague.json()["error"]["message"]
    assert [each["model"] for each in left] == ["big"]
