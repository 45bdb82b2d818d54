"""POST /v1/embeddings, /pooling and /classify over ASGI, with a fake engine whose vectors tell what it was given."""

import asyncio
import base64
import struct
from typing import Any

import httpx
import pytest

from engine.protocol import FinishReason, PoolingOutput, PoolingRequest, PoolingTask
from tests.helpers.asgi import RawRequest
from tests.helpers.fake_client import BOS, MODEL, VOCAB_SIZE, FakeClient, http, make_app, pooling_client, says

pytestmark = pytest.mark.fast

URL = "/v1/embeddings"


async def _post(client: FakeClient, path: str, body: dict[str, Any], **options: Any) -> httpx.Response:
    async with http(make_app(client, **options)) as api:
        return await api.post(path, json=body)


async def _error(client: FakeClient, path: str, body: dict[str, Any], **options: Any) -> dict[str, Any]:
    response = await _post(client, path, body, **options)
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


def _prompts(client: FakeClient) -> list[str]:
    """The texts that the engine was given, without control tokens."""
    return [bytes(each for each in request.prompt_ids if each < 256).decode() for request in client.pool_requests]


async def test_a_text_has_openais_shape() -> None:
    response = await _post(pooling_client(), URL, {"model": MODEL, "input": "hi"})
    assert response.json() == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [3.0, BOS + 104 + 105, BOS, 105.0]}],
        "model": MODEL,
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }


@pytest.mark.parametrize(
    ("given", "ids"),
    [
        ("hi", [[BOS, 104, 105]]),
        (["hi", "a"], [[BOS, 104, 105], [BOS, 97]]),
        ([104, 105], [[104, 105]]),
        ([[104, 105], [97]], [[104, 105], [97]]),
        ("", [[BOS]]),
    ],
)
async def test_all_four_spellings_of_the_input_are_taken(given: Any, ids: list[list[int]]) -> None:
    client = pooling_client()
    response = await _post(client, URL, {"input": given})
    assert [request.prompt_ids for request in client.pool_requests] == ids
    assert [each["index"] for each in response.json()["data"]] == list(range(len(ids)))
    assert response.json()["usage"]["prompt_tokens"] == sum(map(len, ids))
    assert {request.params.task for request in client.pool_requests} == {PoolingTask.EMBED}


async def test_base64_is_little_endian_fp32() -> None:
    response = await _post(pooling_client(), URL, {"input": "hi", "encoding_format": "base64"})
    (data,) = response.json()["data"]
    assert struct.unpack("<4f", base64.b64decode(data["embedding"])) == (3.0, BOS + 209, BOS, 105)


async def test_many_inputs_keep_their_order() -> None:
    texts = ["x" * (number % 90 + 1) for number in range(300)]
    response = await _post(pooling_client(), URL, {"input": texts})
    assert [each["embedding"][0] for each in response.json()["data"]] == [len(text) + 1 for text in texts]


BAD_INPUTS: list[tuple[Any, str, str]] = [
    ([], "input", "a string, a list of strings"),
    (3, "input", "a string, a list of strings"),
    (["a", 3], "input[1]", "is 3; all items must be strings"),
    ([[1], []], "input[1]", "all lists of token ids, none empty"),
    ([[1], "a"], "input[1]", "all items"),
    ([1, VOCAB_SIZE], "input", f"at most {VOCAB_SIZE - 1}"),
    ([[1], [2, -1]], "input[1]", "check_embedding_ctx_length=False"),
    (["a"] * 2049, "input", "has 2049 items; the limit is 2048"),
    (["a", "b" * 200], "input[1]", "input[1] has 201 tokens; this model takes 200"),
    ([[1] * 201], "input", "input has 201 tokens"),
    (["a", "b" * (2**20 + 1)], "input[1]", "has 1048577 characters"),
]


async def test_a_bad_input_is_named() -> None:
    client = pooling_client()
    async with http(make_app(client)) as api:
        for given, param, message in BAD_INPUTS:
            response = await api.post(URL, json={"input": given})
            error = response.json()["error"]
            assert (response.status_code, error["param"]) == (400, param)
            assert message in error["message"]
    assert not client.pool_requests


async def test_an_input_that_is_too_long_has_openais_code() -> None:
    error = await _error(pooling_client(), URL, {"input": "b" * 300})
    assert error["code"] == "context_length_exceeded"


async def test_all_inputs_together_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.pooling.encoding.MAX_TOKENS", 500)
    error = await _error(pooling_client(), URL, {"input": ["x" * 99] * 6})
    assert "the first 6 inputs have 600 tokens; a request may have 500 in all its inputs" in error["message"]
    error = await _error(pooling_client(), URL, {"input": [[1] * 100] * 6})
    assert "600 tokens" in error["message"]


@pytest.mark.parametrize(
    ("fields", "num_tokens"),
    [
        ({"input": ["x" * 99] * 6}, 600),
        ({"input": [[1] * 100] * 6}, 600),
        ({"input": ["x" * 150] * 6, "truncate_prompt_tokens": 100}, 600),
        ({"input": "x" * 150}, 151),
        ({"messages": [{"role": "user", "content": "x" * 150}]}, 158),
    ],
)
async def test_the_vectors_of_all_tokens_have_a_limit(
    fields: dict[str, Any], num_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.pooling.encoding.MAX_TOKEN_VALUES", 599)
    client = pooling_client(matryoshka=[])
    error = await _error(client, "/pooling", {"task": "token_embed", **fields})
    assert f"{num_tokens} tokens, for each of which token_embed returns 4 numbers" in error["message"]
    assert "a request may have 599 numbers, which are 149 tokens" in error["message"]
    assert error["param"] in ("input", "messages")
    assert not client.pool_requests
    monkeypatch.setattr("server.pooling.encoding.MAX_TOKEN_VALUES", 600)
    for few in ({"task": "token_embed", "dimensions": 1}, {"task": "embed"}):
        assert (await _post(client, "/pooling", {**few, **fields})).status_code == 200


@pytest.mark.parametrize(
    ("fields", "text", "num_tokens"),
    [
        ({"truncate_prompt_tokens": -1}, "a" * 150 + "b" * 49, 200),
        ({"truncate_prompt_tokens": 1000}, "a" * 150 + "b" * 49, 200),
        ({"truncate_prompt_tokens": 11}, "a" * 10, 11),
        ({"truncate_prompt_tokens": 11, "truncation_side": "left"}, "b" * 10, 11),
        ({"truncate": True}, "a" * 150 + "b" * 49, 200),
        ({"truncate": "END"}, "a" * 150 + "b" * 49, 200),
        ({"truncate": "start"}, "a" * 49 + "b" * 150, 200),
    ],
)
async def test_a_long_input_is_cut_as_asked(fields: dict[str, Any], text: str, num_tokens: int) -> None:
    client = pooling_client()
    response = await _post(client, URL, {"input": "a" * 150 + "b" * 150, **fields})
    assert response.status_code == 200, response.text
    assert _prompts(client) == [text]
    assert client.pool_requests[0].prompt_ids[0] == BOS
    assert response.json()["usage"]["prompt_tokens"] == num_tokens


async def test_token_ids_are_cut_as_they_are() -> None:
    client = pooling_client()
    await _post(client, URL, {"input": [[1, 2, 3], [4]], "truncate_prompt_tokens": 2})
    assert [request.prompt_ids for request in client.pool_requests] == [[1, 2], [4]]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
    ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
    ({"truncate_prompt_tokens": 1}, "truncate_prompt_tokens"),  # the BOS alone
    ({"truncate": "MIDDLE"}, "truncate"),
    ({"truncate": "NONE", "truncate_prompt_tokens": 5}, "truncate"),
    ({"truncate": "END", "truncation_side": "left"}, "truncate"),
    ({"truncation_side": "left"}, "truncation_side"),
    ({"encoding_format": "hex"}, "encoding_format"),
    ({"encoding_format": "bytes"}, "encoding_format"),
    ({"dimensions": 0}, "dimensions"),
    ({"dimensions": 2}, "dimensions"),
    ({"normalize": True, "use_activation": False}, "use_activation"),
    ({"embed_dtype": "float16"}, "embed_dtype"),
    ({"prompt_name": "query"}, "prompt_name"),
    ({"messages": [{"role": "user", "content": "hi"}]}, "messages"),
    ({"add_generation_prompt": True}, "add_generation_prompt"),
    ({"timeout": 0}, "timeout"),
    ({"service_tier": "best"}, "service_tier"),
]


async def test_a_field_that_cannot_be_honored_is_refused() -> None:
    async with http(make_app(pooling_client())) as api:
        for fields, param in REFUSED:
            response = await api.post(URL, json={"input": "hi", **fields})
            assert (response.status_code, response.json()["error"]["param"]) == (400, param), fields


async def test_what_cannot_change_the_answer_is_listed() -> None:
    body = {"input": "hi", "user": "ann", "cache_salt": "x", "priority": 3, "unheard_of": 1, "embed_dtype": "float32"}
    response = await _post(pooling_client(), URL, body)
    assert response.headers["x-ignored-parameters"] == "user, unheard_of, cache_salt, priority"


async def test_strict_parameters_refuse_what_is_unknown() -> None:
    error = await _error(pooling_client(), URL, {"input": "hi", "unheard_of": 1}, strict_parameters=True)
    assert error["code"] == "unknown_parameter"


async def test_dimensions_and_normalize_reach_the_engine() -> None:
    client = pooling_client(matryoshka=[2, 3])
    response = await _post(client, URL, {"input": "hi", "dimensions": 2, "use_activation": False})
    assert len(response.json()["data"][0]["embedding"]) == 2
    assert client.pool_requests[0].params.normalize is False
    error = await _error(client, URL, {"input": "hi", "dimensions": 1})
    assert "2, 3" in error["message"]


PROMPTS = {"query": "Find: ", "document": ""}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "hi"),
        ({"prompt_name": "query"}, "Find: hi"),
        ({"prompt_name": "document"}, "hi"),
        ({"input_type": "search_query"}, "Find: hi"),
        ({"input_type": "search_document"}, "hi"),
    ],
)
async def test_a_prompt_goes_in_front(fields: dict[str, str], text: str) -> None:
    client = pooling_client(prompts=PROMPTS)
    await _post(client, URL, {"input": ["hi"], **fields})
    assert _prompts(client) == [text]


async def test_the_models_default_prompt_goes_in_front_of_texts_alone() -> None:
    client = pooling_client(prompts=PROMPTS, default_prompt="query")
    await _post(client, URL, {"input": "hi"})
    await _post(client, URL, {"input": [104, 105]})
    assert _prompts(client) == ["Find: hi", "hi"]


async def test_a_prompt_that_the_model_lacks_is_refused_and_a_model_without_prompts_ignores_types() -> None:
    error = await _error(pooling_client(prompts=PROMPTS), URL, {"input": "hi", "input_type": "clustering"})
    assert "has prompts for 'query', 'document'" in error["message"]
    error = await _error(pooling_client(prompts=PROMPTS), URL, {"input": [1], "input_type": "query"})
    assert error["param"] == "input_type"
    response = await _post(pooling_client(), URL, {"input": "hi", "input_type": "query"})
    assert response.headers["x-ignored-parameters"] == "input_type"


async def test_a_conversation_is_one_input_by_the_chat_template() -> None:
    client = pooling_client()
    body = {"messages": [{"role": "user", "content": "hi"}]}
    await _post(client, URL, body)
    await _post(client, URL, {**body, "add_generation_prompt": True})
    assert _prompts(client) == ["user\nhi\n", "user\nhi\nassistant\n"]
    error = await _error(client, URL, {"messages": [{"role": "user", "content": "x" * 300}]})
    assert error["param"] == "messages"


async def test_pooling_answers_for_each_task() -> None:
    client = pooling_client(tasks=[*PoolingTask], labels=["bad", "good"])
    vector = (await _post(client, "/pooling", {"input": "hi"})).json()["data"][0]["data"]
    rows = (await _post(client, "/pooling", {"input": "hi", "task": "token_embed"})).json()["data"][0]["data"]
    scores = (await _post(client, "/pooling", {"input": "hi", "task": "classify"})).json()["data"][0]["data"]
    assert vector == [3.0, BOS + 209, BOS, 105.0]
    assert rows == [[1.0, each, each, each] for each in (BOS, 104.0, 105.0)]
    assert scores == [3.0]
    encoded = await _post(client, "/pooling", {"input": "hi", "task": "token_embed", "encoding_format": "base64"})
    assert len(base64.b64decode(encoded.json()["data"][0]["data"])) == 3 * 4 * 4
    assert (await _error(client, "/pooling", {"input": "hi", "task": "plugin"}))["param"] == "task"


async def test_classify_names_the_likeliest_label() -> None:
    client = pooling_client(lambda _: [[0.25, 0.75]], tasks=[PoolingTask.CLASSIFY], labels=["bad", "good"])
    (found,) = (await _post(client, "/classify", {"input": ["hi"]})).json()["data"]
    assert found == {"index": 0, "label": "good", "probs": [0.25, 0.75], "num_classes": 2}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (URL, {"input": "hi"}),
        ("/pooling", {"input": "hi"}),
        ("/classify", {"input": "hi"}),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}),
        ("/score", {"text_1": "a", "text_2": "b"}),
    ],
)
async def test_a_model_that_generates_is_refused(path: str, body: dict[str, Any]) -> None:
    error = await _error(FakeClient(says("x")), path, body)
    assert (error["param"], error["code"]) == ("model", "model_not_suited")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/responses", {"input": "hi"}),
        ("/v1/messages", {"model": MODEL, "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}),
        ("/infill", {"input_prefix": "a", "input_suffix": "b"}),
        ("/api/chat", {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}),
        ("/api/generate", {"model": MODEL, "prompt": "hi"}),
    ],
)
async def test_a_model_that_computes_embeddings_generates_nothing(path: str, body: dict[str, Any]) -> None:
    response = await _post(pooling_client(), path, body)
    assert response.status_code == 400
    assert "/v1/embeddings" in response.text


async def test_a_task_that_the_model_lacks_is_refused_with_what_it_can() -> None:
    error = await _error(pooling_client(), "/classify", {"input": "hi"})
    assert "cannot classify; it can embed (/v1/embeddings), token_embed (/pooling)" in error["message"]


def _output(request: PoolingRequest, reason: FinishReason, **fields: Any) -> PoolingOutput:
    return PoolingOutput(id=request.id, finish_reason=reason, **fields)


@pytest.mark.parametrize(
    ("reason", "fields", "status", "code"),
    [
        (FinishReason.ERROR, {"error": "not finite"}, 500, "generation_failed"),
        (FinishReason.ERROR, {"error": "too long", "is_refused": True}, 400, None),
        (FinishReason.TIMEOUT, {}, 504, "timeout"),
        (FinishReason.QUEUE_TIMEOUT, {}, 503, "queue_timeout"),
        (FinishReason.ABORT, {}, 503, "engine_unavailable"),
    ],
)
async def test_an_input_without_values_is_the_requests_error(
    reason: FinishReason, fields: dict[str, Any], status: int, code: str | None
) -> None:
    def script(request: PoolingRequest) -> PoolingOutput | list[list[float]]:
        return _output(request, reason, **fields) if request.prompt_ids[1] == ord("b") else [[1.0]]

    response = await _post(pooling_client(script), URL, {"input": ["a", "b"], "timeout": 60}, queue_timeout=5.0)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    if fields:
        assert response.json()["error"]["message"].startswith("input[1]: ")


async def test_a_client_that_goes_away_ends_what_the_engine_does() -> None:
    client = pooling_client()
    client.pool_gate = asyncio.Event()
    async with RawRequest(make_app(client), URL, {"input": "hi"}) as request:
        await request.until(lambda: client.num_open == 1)
        request.disconnect()
        await request.ended()
    assert client.num_canceled_pools == 1
    assert client.num_open == 0
