"""/rerank and /score over ASGI, by a cross-encoder and by embeddings."""

import math
from collections.abc import Iterable
from typing import Any

import httpx
import msgspec
import pytest
import tokenizers

from engine.protocol import PoolingRequest, PoolingTask
from server.text.input_encoder import InputEncoder
from tests.helpers.fake_client import MODEL, FakeClient, engine_info, http, make_app, pooling_client, says
from tests.helpers.fake_pooling import pooling_info
from tests.helpers.tokenizers import wordpiece_info

pytestmark = pytest.mark.fast

CLS, SEP = 2, 3
RERANKS = ["/v1/rerank", "/v2/rerank", "/rerank"]
SCORES = ["/v1/score", "/score"]


def cross_encoder(**changes: Any) -> FakeClient:
    """Its score is the number of tokens; its tokenizer joins pairs as BERT's."""
    pooling = pooling_info(tasks=[PoolingTask.SCORE], max_input_tokens=20, **changes)
    info = msgspec.structs.replace(engine_info(pooling=pooling), tokenizer=wordpiece_info())
    return FakeClient(says("never"), info)


async def _post(client: FakeClient, path: str, body: dict[str, Any], **options: Any) -> httpx.Response:
    async with http(make_app(client, **options)) as api:
        return await api.post(path, json=body)


async def _error(client: FakeClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = await _post(client, path, body)
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


@pytest.mark.parametrize("path", RERANKS)
async def test_documents_are_ordered_best_first(path: str) -> None:
    body = {"model": MODEL, "query": "a", "documents": ["b", "b b b", {"text": "b b"}]}
    answer = (await _post(cross_encoder(), path, body)).json()
    ranked = [(each["index"], each["relevance_score"]) for each in answer["results"]]
    assert ranked == [(1, 7.0), (2, 6.0), (0, 5.0)]
    assert answer["model"] == MODEL
    assert answer["usage"] == {"prompt_tokens": 18, "total_tokens": 18}
    assert answer["meta"]["tokens"]["input_tokens"] == 18
    texts = [each["document"]["text"] for each in answer["results"]] if path != "/v2/rerank" else None
    assert texts == (["b b b", "b b", "b"] if path != "/v2/rerank" else None)


@pytest.mark.parametrize(("path", "returns"), [(path, returns) for path in RERANKS for returns in (True, False)])
async def test_return_documents_decides_over_the_default(path: str, returns: bool) -> None:
    body = {"query": "a", "documents": ["b"], "return_documents": returns}
    (result,) = (await _post(cross_encoder(), path, body)).json()["results"]
    assert ("document" in result) == returns


@pytest.mark.parametrize(("top_n", "number"), [(None, 3), (0, 3), (2, 2), (10, 3)])
async def test_top_n_limits_the_answer_and_not_what_is_compared(top_n: int | None, number: int) -> None:
    client = cross_encoder()
    body = {"query": "a", "documents": ["b", "b b b", "b b"], "top_n": top_n}
    results = (await _post(client, "/rerank", body)).json()["results"]
    assert [each["index"] for each in results] == [1, 2, 0][:number]
    assert len(client.pool_requests) == 3


async def test_pairs_are_joined_with_token_types() -> None:
    client = cross_encoder()
    await _post(client, "/rerank", {"query": "a", "documents": ["hello"]})
    (request,) = client.pool_requests
    ids = request.prompt_ids
    assert (ids[0], ids[2], ids[-1], len(ids)) == (CLS, SEP, SEP, 5)
    assert request.token_type_ids == [0, 0, 0, 1, 1]
    assert request.params.task is PoolingTask.SCORE


async def test_equal_scores_keep_the_order_of_the_documents() -> None:
    results = (await _post(cross_encoder(), "/rerank", {"query": "a", "documents": ["b", "a", "b"]})).json()["results"]
    assert [each["index"] for each in results] == [0, 1, 2]


async def test_a_long_query_is_tokenized_once_for_all_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenized: list[str] = []
    plain = InputEncoder._plain

    def record(self: InputEncoder, texts: Iterable[str]) -> list[tokenizers.Encoding]:
        tokenized.extend(texts := list(texts))
        return plain(self, texts)

    monkeypatch.setattr(InputEncoder, "_plain", record)
    client, query, documents = cross_encoder(), "a " * 100_000, ["b " * number for number in range(1, 31)]
    response = await _post(client, "/rerank", {"query": query, "documents": documents, "truncate_prompt_tokens": -1})
    assert response.status_code == 200, response.text
    assert {len(request.prompt_ids) for request in client.pool_requests} == {20}
    assert tokenized.count(query) == 1


async def test_a_document_that_is_too_long_is_named_or_cut() -> None:
    body = {"query": "a", "documents": ["b", "b " * 30]}
    error = await _error(cross_encoder(), "/rerank", body)
    assert (error["param"], error["code"]) == ("documents[1]", "context_length_exceeded")
    assert "documents[1] has 34 tokens; this model takes 20" in error["message"]
    for fields, num_tokens in (
        ({"truncate_prompt_tokens": -1}, 20),
        ({"truncate_prompt_tokens": 10}, 10),
        ({"max_tokens_per_doc": 3}, 7),
    ):
        client = cross_encoder()
        await _post(client, "/rerank", {**body, **fields})
        assert len(client.pool_requests[1].prompt_ids) == num_tokens
        assert len(client.pool_requests[0].prompt_ids) == 5


@pytest.mark.parametrize("path", SCORES)
async def test_one_text_is_scored_against_many_and_pairs_with_each_other(path: str) -> None:
    answer = (await _post(cross_encoder(), path, {"text_1": "a", "text_2": ["b", "b b"]})).json()
    assert [(each["index"], each["object"], each["score"]) for each in answer["data"]] == [
        (0, "score", 5.0),
        (1, "score", 6.0),
    ]
    pairs = (await _post(cross_encoder(), path, {"queries": ["a", "a a"], "documents": ["b", "b"]})).json()
    assert [each["score"] for each in pairs["data"]] == [5.0, 6.0]
    single = (await _post(cross_encoder(), path, {"text_1": "a", "text_2": "b"})).json()
    assert len(single["data"]) == 1


WRONG: list[tuple[str, dict[str, Any], str, str]] = [
    ("/rerank", {"documents": ["a"]}, "query", "missing"),
    ("/rerank", {"query": "a"}, "documents", "missing"),
    ("/rerank", {"query": "a", "documents": []}, "documents", "a nonempty list"),
    ("/rerank", {"query": 3, "documents": ["a"]}, "query", "is 3; it must be a string"),
    ("/rerank", {"query": "a", "documents": ["a", 3]}, "documents[1]", "is 3; it must be a string"),
    ("/rerank", {"query": "a", "documents": [{"txt": "a"}]}, "documents[0]", "an object with a text"),
    ("/rerank", {"query": "a", "documents": [{"text": "a", "image": "b"}]}, "documents[0].image", "only text"),
    ("/rerank", {"query": "a", "documents": ["a"] * 2049}, "documents", "the limit is 2048"),
    ("/rerank", {"query": "a", "documents": ["a"], "top_n": -1}, "top_n", "at least 0"),
    ("/rerank", {"query": "a", "documents": ["a"], "rank_fields": ["b"]}, "rank_fields", "not supported"),
    ("/score", {"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}, "text_1", "text_1 has 2 texts and text_2 has 3"),
    ("/score", {"text_1": "a"}, "text_2", "missing"),
    ("/score", {"text_1": "a", "queries": "a", "text_2": "b"}, "queries", "two names"),
    ("/score", {"text_1": "a", "text_2": ["b", None]}, "text_2[1]", "must be a string"),
]


async def test_what_is_wrong_is_named() -> None:
    client = cross_encoder()
    async with http(make_app(client)) as api:
        for path, body, param, message in WRONG:
            response = await api.post(path, json=body)
            error = response.json()["error"]
            assert (response.status_code, error["param"]) == (400, param)
            assert message in error["message"]
    assert not client.pool_requests


def _by_first_letter(request: PoolingRequest) -> list[list[float]]:
    """a: to the right; b: up; others between them."""
    return [{ord("a"): [2.0, 0.0], ord("b"): [0.0, 0.5]}.get(request.prompt_ids[1], [1.0, 1.0])]


async def test_embeddings_are_compared_by_their_angle_and_computed_once_each() -> None:
    client = pooling_client(_by_first_letter)
    body = {"query": "a", "documents": ["b", "c", "a"]}
    results = (await _post(client, "/rerank", body)).json()["results"]
    assert [each["index"] for each in results] == [2, 1, 0]
    assert [each["relevance_score"] for each in results] == pytest.approx([1.0, math.sqrt(0.5), 0.0])
    assert len(client.pool_requests) == 4
    scores = (await _post(client, "/score", {"text_1": ["a", "b"], "text_2": ["b", "b"]})).json()["data"]
    assert [each["score"] for each in scores] == pytest.approx([0.0, 1.0])


async def test_a_vector_without_length_is_like_none() -> None:
    client = pooling_client(lambda _: [[0.0, 0.0]])
    (result,) = (await _post(client, "/rerank", {"query": "a", "documents": ["b"]})).json()["results"]
    assert result["relevance_score"] == 0.0


async def test_documents_of_embeddings_are_cut_each() -> None:
    client = pooling_client()
    body = {"query": "a", "documents": ["b" * 50, "b"], "max_tokens_per_doc": 10}
    await _post(client, "/rerank", body)
    assert [len(each.prompt_ids) for each in client.pool_requests] == [2, 11, 2]
    error = await _error(client, "/rerank", {"query": "q" * 300, "documents": ["b"]})
    assert error["param"] == "query"


async def test_activation_is_a_cross_encoders() -> None:
    client = cross_encoder()
    await _post(client, "/score", {"text_1": "a", "text_2": "b", "use_activation": False})
    assert client.pool_requests[0].params.normalize is False
    error = await _error(pooling_client(), "/score", {"text_1": "a", "text_2": "b", "use_activation": False})
    assert error["param"] == "use_activation"
