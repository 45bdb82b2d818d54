"""Ollama's embeddings, and llama-server's /embedding, over ASGI."""

import json
from typing import Any

import httpx
import pytest

from engine.protocol import PoolingTask
from tests.helpers.fake_client import BOS, MODEL, FakeClient, http, make_app, pooling_client, says
from tests.helpers.ollama import post
from tests.helpers.several import make_several

pytestmark = pytest.mark.fast


async def _embed(client: FakeClient, **body: Any) -> httpx.Response:
    return await post(client, "/api/embed", body)


async def test_each_input_has_a_vector_of_length_1() -> None:
    client = pooling_client()
    response = await _embed(client, input=["hi", "a"])
    answer = response.json()
    assert answer["model"] == MODEL
    assert [vector[0] for vector in answer["embeddings"]] == [3.0, 2.0]
    assert answer["prompt_eval_count"] == 5
    assert answer["total_duration"] >= answer["load_duration"] >= 0
    assert all(request.params.normalize for request in client.pool_requests)
    assert "x-ignored-parameters" not in response.headers


@pytest.mark.parametrize("given", ["hi", ["hi"]])
async def test_one_input_may_be_a_string(given: Any) -> None:
    assert len((await _embed(pooling_client(), input=given)).json()["embeddings"]) == 1


@pytest.mark.parametrize("body", [{}, {"input": ""}, {"input": []}, {"input": None}])
async def test_without_input_the_model_is_only_loaded(body: dict[str, Any]) -> None:
    client = pooling_client()
    answer = (await _embed(client, **body)).json()
    assert (answer["embeddings"], answer["prompt_eval_count"]) == ([], 0)
    assert not client.pool_requests


async def test_long_inputs_are_cut_unless_the_request_says_no() -> None:
    client = pooling_client()
    assert (await _embed(client, input="x" * 300)).json()["prompt_eval_count"] == 200
    refused = await _embed(client, input=["a", "x" * 300], truncate=False)
    assert refused.status_code == 400
    assert "input[1] has 301 tokens" in refused.json()["error"]


async def test_options_of_loading_are_listed_and_dimensions_honored() -> None:
    client = pooling_client(matryoshka=[])
    response = await _embed(
        client, input="hi", dimensions=2, keep_alive="5m", options={"num_ctx": 200, "num_thread": 4, "temperature": 0}
    )
    assert len(response.json()["embeddings"][0]) == 2
    ignored = response.headers["x-ignored-parameters"].split(", ")
    assert ignored == ["keep_alive", "options.num_thread", "options.temperature"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"input": ["a", 3]}, "input[1] is 3; it must be a string"),
        ({"input": {"a": 1}}, "input is an object"),
        ({"input": "a", "keep_alive": "soon"}, "keep_alive"),
        ({"input": "a", "dimensions": 3}, "dimensions is 3"),
    ],
)
async def test_what_is_wrong_is_said_in_ollamas_form(body: dict[str, Any], message: str) -> None:
    response = await _embed(pooling_client(), **body)
    assert response.status_code == 400
    assert list(response.json()) == ["error"]
    assert message in response.json()["error"]


async def test_the_older_endpoint_has_one_vector() -> None:
    client = pooling_client()
    answer = (await post(client, "/api/embeddings", {"prompt": "hi"})).json()
    assert answer == {"embedding": [3.0, BOS + 209, BOS, 105.0]}
    assert client.pool_requests[0].params.normalize is None
    assert (await post(client, "/api/embeddings", {"prompt": ""})).json() == {"embedding": []}


async def test_a_model_that_generates_is_refused() -> None:
    response = await _embed(FakeClient(says("x")), input="hi")
    assert response.status_code == 400
    assert "generates text" in response.json()["error"]


async def test_a_model_that_embeds_says_so() -> None:
    client = pooling_client()
    async with http(make_app(client)) as api:
        shown = (await api.post("/api/show", json={"model": MODEL})).json()
        card = (await api.get("/v1/models")).json()["data"][0]
    assert shown["capabilities"] == ["embedding"]
    assert shown["model_info"]["tiny.embedding_length"] == 4
    assert card["headrace"]["capabilities"] == ["embedding"]


async def test_keep_alive_is_heeded_where_models_come_and_go() -> None:
    several = make_several({"chat": 1, "embedder": 1}, 1)
    several.infos["embedder"] = pooling_client().info
    async with http(several.app) as api:
        answer = await api.post("/api/embed", json={"model": "embedder", "input": "hi", "keep_alive": 77})
        assert answer.status_code == 200, answer.text
        assert "x-ignored-parameters" not in answer.headers
        assert several.loader.model("embedder").keep_alive_s == 77
        refused = await api.post("/v1/embeddings", json={"model": "chat", "input": "hi"})
    assert refused.json()["error"]["code"] == "model_not_suited"


async def test_llama_servers_route_has_a_list_of_one_vector_an_input() -> None:
    client = pooling_client()
    async with http(make_app(client)) as api:
        answer = (await api.post("/embedding", json={"content": ["hi", "a"], "embd_normalize": -1})).json()
        error = (await api.post("/embedding", json={"content": ["a", 3]})).json()["error"]
        long = (await api.post("/embedding", json={"content": ["a", "b" * 300]})).json()["error"]
        norm = (await api.post("/embedding", json={"content": "a", "embd_normalize": 1})).json()["error"]
    assert answer == [
        {"index": 0, "embedding": [[3.0, BOS + 209, BOS, 105.0]]},
        {"index": 1, "embedding": [[2.0, BOS + 97, BOS, 97.0]]},
    ]
    assert [request.params.normalize for request in client.pool_requests] == [False, False]
    assert client.pool_requests[0].params.task is PoolingTask.EMBED
    assert (error["param"], long["param"], norm["param"]) == ("content[1]", "content[1]", "embd_normalize")
    assert json.dumps(long["message"]).startswith('"content[1] has 301 tokens')
