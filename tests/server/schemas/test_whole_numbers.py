"""Integers that are spelled as other numbers: taken where they are whole, by every route."""

from typing import Any

import pytest

from tests.helpers.fake_client import FakeClient, http, make_app, says

pytestmark = pytest.mark.fast

_CHAT = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "a", "max_tokens": 4.0}),
        ("/v1/chat/completions", {**_CHAT, "max_tokens": 4.0}),
        ("/v1/messages", {**_CHAT, "model": "org/tiny", "max_tokens": 4.0}),
        ("/v1/responses", {"input": "hi", "max_output_tokens": 4.0}),
        ("/api/generate", {"model": "org/tiny", "prompt": "hi", "options": {"num_predict": 4.0}}),
    ],
)
async def test_the_most_tokens_may_have_a_point(path: str, body: dict[str, Any]) -> None:
    client = FakeClient(says("Hello"))
    async with http(make_app(client)) as api:
        answer = await api.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert client.requests[0].sampling.max_tokens == 4


async def test_exponents_lists_and_objects() -> None:
    body = b'{"prompt": "a", "max_tokens": 1e1, "top_k": 4e0, "stop_token_ids": [5, 6.0], "stream_options": null}'
    client = FakeClient(says("Hello"))
    async with http(make_app(client)) as api:
        answer = await api.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 200, answer.text
    (request,) = client.requests
    assert (request.sampling.max_tokens, request.sampling.top_k) == (10, 4)
    assert set(request.sampling.stop_token_ids) == {5, 6}


async def test_a_list_of_them_is_none_of_integers() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        answer = await api.post("/v1/completions", json={"prompt": "a", "stop_token_ids": [1.0] * 65})
    assert answer.status_code == 400
    assert "it must be an integer" in answer.json()["error"]["message"]


async def test_of_several_faults_the_one_that_stays_is_told() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        answer = await api.post("/v1/completions", json={"prompt": "a", "max_tokens": 4.0, "seed": 0.5})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "seed"
