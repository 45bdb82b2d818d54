"""keep_alive of Ollama's clients: how long a model stays loaded."""

import msgspec
import pytest
from tokenizers import AddedToken, Tokenizer

from engine.client.interface import EngineState
from tests.helpers.chat_templates import OPENED_THOUGHT
from tests.helpers.fake_client import (
    MAX_MODEL_LEN,
    MODEL,
    FakeClient,
    byte_tokenizer,
    engine_info,
    http,
    make_app,
    says,
)
from tests.helpers.ollama import MESSAGES, lines, post

pytestmark = pytest.mark.fast

THINKING_TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}" + OPENED_THOUGHT


@pytest.mark.parametrize(
    ("served", "asked", "status"),
    [
        ("tiny", "tiny", 200),
        ("tiny", "tiny:latest", 200),
        ("tiny:latest", "tiny", 200),
        ("org/tiny", "org/tiny:latest", 200),
        ("host:80/tiny", "host:80/tiny:latest", 200),
        ("tiny", "tiny:8b", 404),
        ("tiny:8b", "tiny", 404),
        ("tiny", "other", 404),
    ],
)
async def test_a_tag_that_is_latest_may_be_left_out(served: str, asked: str, status: int) -> None:
    response = await post(
        FakeClient(says("x")), "/api/chat", {"model": asked, "messages": MESSAGES}, served_model_name=(served,)
    )
    assert response.status_code == status
    if status == 404:
        assert response.json()["error"].startswith(f"the model '{asked}' is not served here")
    else:
        assert lines(response)[0]["model"] == asked


async def test_while_the_model_loads_requests_are_refused_and_lists_say_what_is_known() -> None:
    client = FakeClient(says("x"))
    client.state, client.reason = EngineState.LOADING, "loading"
    async with http(make_app(client)) as api:
        refused = await api.post("/api/chat", json={"model": MODEL})
        tags, running = (await api.get("/api/tags")).json(), (await api.get("/api/ps")).json()
    assert (refused.status_code, refused.json()) == (503, {"error": "loading"})
    assert running == {"models": []}
    assert [model["name"] for model in tags["models"]] == [f"{MODEL}:latest"]
    assert "size" not in tags["models"][0]


async def test_the_model_is_described() -> None:
    info = engine_info(
        weight_bytes=1000, weight_formats={"Q4_1": 30, "float32": 5}, generation_defaults={"temperature": 0.7}
    )
    async with http(make_app(FakeClient(says("x"), info), chat_template=THINKING_TEMPLATE)) as api:
        (card,) = (await api.get("/api/tags")).json()["models"]
        (running,) = (await api.get("/api/ps")).json()["models"]
        shown = (await api.post("/api/show", json={"model": f"{MODEL}:latest"})).json()
        by_old_name = await api.post("/api/show", json={"name": MODEL})
        other = await api.post("/api/show", json={"model": "other"})
        nameless = await api.post("/api/show", json={})
    assert (card["name"], card["size"], card["details"]["quantization_level"]) == (f"{MODEL}:latest", 1000, "Q4_1")
    assert (running["context_length"], running["size_vram"]) == (MAX_MODEL_LEN, 0)
    assert running["digest"] == card["digest"]
    assert len(card["digest"]) == 64
    assert shown["template"] == THINKING_TEMPLATE
    assert shown["parameters"].split() == ["temperature", "0.7"]
    assert shown["model_info"]["general.architecture"] == "tiny"
    assert shown["model_info"]["tiny.context_length"] == MAX_MODEL_LEN
    assert shown["capabilities"] == ["completion", "tools", "thinking"]
    assert by_old_name.json() == shown
    assert (other.status_code, nameless.status_code) == (404, 400)


async def test_code_models_can_insert() -> None:
    fim = {"<|fim_prefix|>": 259, "<|fim_suffix|>": 260, "<|fim_middle|>": 261}
    tokenizer = Tokenizer.from_buffer(byte_tokenizer())
    tokenizer.add_special_tokens([AddedToken(text) for text in fim])
    info = msgspec.structs.replace(engine_info().tokenizer, tokenizer_json=tokenizer.to_str().encode())
    client = FakeClient(says("x"), engine_info(tokenizer=info))
    async with http(make_app(client)) as api:
        shown = (await api.post("/api/show", json={"model": MODEL})).json()
        body = {"model": MODEL, "prompt": "a", "suffix": "b", "stream": False}
        assert (await api.post("/api/generate", json=body)).json()["response"] == "x"
    assert "insert" in shown["capabilities"]
    assert {*fim.values()} <= {*client.requests[0].prompt_ids}
    assert (await post(FakeClient(says("x")), "/api/generate", {"prompt": "a", "suffix": "b"})).status_code == 400


async def test_the_digest_tells_models_apart() -> None:
    digests = set()
    for changes in ({}, {"weight_bytes": 7}, {"dtype": "bfloat16"}):
        async with http(make_app(FakeClient(says("x"), engine_info(**changes)))) as api:
            digests.add((await api.get("/api/tags")).json()["models"][0]["digest"])
    assert len(digests) == 3


async def test_version_and_probe() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        version = (await api.get("/api/version")).json()
        probes = [await api.head("/"), await api.get("/"), await api.head("/api/version"), await api.head("/api/tags")]
    assert version["version"].split(".")[0].isdecimal()
    assert [probe.status_code for probe in probes] == [200] * 4
    assert probes[1].text == "headrace is running"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/pull"),
        ("DELETE", "/api/delete"),
        ("POST", "/api/blobs/sha256:00"),
    ],
)
async def test_what_is_not_served_is_said(method: str, path: str) -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        response = await api.request(method, path, json={})
    assert response.status_code == 404
    assert "is not served here: this server" in response.json()["error"]


async def test_other_errors_have_ollamas_form_too() -> None:
    async with http(make_app(FakeClient(says("x")), api_key=("key",))) as api:
        bare = await api.get("/api/tags")
        unknown = await api.get("/api/unheard-of", headers={"authorization": "Bearer key"})
        keyed = await api.get("/api/tags", headers={"authorization": "Bearer key"})
    assert (bare.status_code, list(bare.json())) == (401, ["error"])
    assert (unknown.status_code, unknown.json()) == (
        404,
        {"error": "there is nothing at this path, '/api/unheard-of' (GET); /docs lists all paths"},
    )
    assert keyed.status_code == 200
