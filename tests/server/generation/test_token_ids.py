"""Prompts' log probabilities, those of chosen tokens, and token ids beside text: vLLM's extensions."""

from typing import Any

import pytest

from engine.protocol import FinishReason
from tests.helpers.fake_client import BOS, IM_END, FakeClient, http, make_app, says
from tests.helpers.sse import events

pytestmark = pytest.mark.fast

CHAT_URL, TEXT_URL = "/v1/chat/completions", "/v1/completions"
CHAT = {"messages": [{"role": "user", "content": "hi"}]}
TEXT = {"prompt": "ab"}


async def _post(client: FakeClient, path: str, body: dict[str, Any]) -> Any:
    async with http(make_app(client)) as api:
        return await api.post(path, json=body)


async def _answer(client: FakeClient, path: str, body: dict[str, Any]) -> Any:
    response = await _post(client, path, body)
    assert response.status_code == 200, response.text
    return events(response.text) if body.get("stream") else response.json()


async def test_a_completion_has_its_prompts_logprobs_in_each_choice() -> None:
    client = FakeClient(says("x"))
    answer = await _answer(client, TEXT_URL, {**TEXT, "prompt_logprobs": 1, "n": 2})
    first, second = answer["choices"]
    assert first["prompt_logprobs"] == second["prompt_logprobs"]
    assert first["prompt_logprobs"] == [
        None,
        {"97": {"logprob": -0.97, "rank": 1, "decoded_token": "a"}},
        {"98": {"logprob": -0.98, "rank": 1, "decoded_token": "b"}},
    ]
    assert first["logprobs"] is None


async def test_only_a_prompts_first_choice_computes_them() -> None:
    client = FakeClient(says("x"))
    await _answer(client, TEXT_URL, {"prompt": ["ab", "c"], "prompt_logprobs": 0, "n": 2})
    assert [request.sampling.prompt_logprobs for request in client.requests] == [0, None, 0, None]


async def test_each_prompt_has_its_own() -> None:
    answer = await _answer(FakeClient(says("x")), TEXT_URL, {"prompt": ["a", "b"], "prompt_logprobs": 0, "n": 2})
    assert [list(choice["prompt_logprobs"][1]) for choice in answer["choices"]] == [["97"], ["97"], ["98"], ["98"]]


async def test_a_chat_has_them_once_as_vllm_does() -> None:
    answer = await _answer(FakeClient(says("x")), CHAT_URL, {**CHAT, "prompt_logprobs": 2})
    assert answer["prompt_logprobs"][0] is None
    assert list(answer["prompt_logprobs"][1]) == [str(ord("u")), str(ord("u") - 1)]
    assert len(answer["prompt_logprobs"]) == answer["usage"]["prompt_tokens"]


async def test_an_answer_has_none_unless_asked() -> None:
    answer = await _answer(FakeClient(says("x")), TEXT_URL, {**TEXT, "echo": True, "logprobs": 1})
    assert "prompt_logprobs" not in answer["choices"][0]


async def test_echo_and_prompt_logprobs_each_have_their_own_number() -> None:
    body = {**TEXT, "echo": True, "logprobs": 1, "prompt_logprobs": 3}
    client = FakeClient(says("x"))
    answer = await _answer(client, TEXT_URL, body)
    assert client.requests[0].sampling.prompt_logprobs == 3
    choice = answer["choices"][0]
    assert len(choice["prompt_logprobs"][1]) == 3
    assert [top and len(top) for top in choice["logprobs"]["top_logprobs"]] == [None, 1, 1, 1]


async def test_a_prompt_can_be_scored_without_an_answer() -> None:
    response = await _post(FakeClient(says("x")), TEXT_URL, {**TEXT, "max_tokens": 0, "prompt_logprobs": 0})
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (TEXT_URL, {"prompt_logprobs": 21}, "prompt_logprobs"),
        (TEXT_URL, {"prompt_logprobs": -1}, "prompt_logprobs"),
        (CHAT_URL, {"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        (CHAT_URL, {"logprob_token_ids": [1]}, "logprob_token_ids"),
        (TEXT_URL, {"logprob_token_ids": [1]}, "logprob_token_ids"),
        (TEXT_URL, {"logprobs": 1, "logprob_token_ids": []}, "logprob_token_ids"),
        (TEXT_URL, {"logprobs": 1, "logprob_token_ids": [1] * 129}, "logprob_token_ids"),
        (TEXT_URL, {"logprobs": 1, "logprob_token_ids": [264]}, "logprob_token_ids"),
        (TEXT_URL, {"logprobs": 1, "logprob_token_ids": [-1]}, "logprob_token_ids"),
        (TEXT_URL, {"logprobs": 1, "echo": True, "max_tokens": 0, "logprob_token_ids": [1]}, "logprob_token_ids"),
    ],
)
async def test_what_cannot_be_given_is_refused(path: str, fields: dict[str, Any], param: str) -> None:
    response = await _post(FakeClient(says("x")), path, {**(CHAT if path == CHAT_URL else TEXT), **fields})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_chosen_tokens_replace_the_best() -> None:
    client = FakeClient(says("hi"))
    fields = {"logprobs": True, "top_logprobs": 3, "logprob_token_ids": [120, 97]}
    answer = await _answer(client, CHAT_URL, {**CHAT, **fields})
    assert client.requests[0].sampling.logprob_token_ids == (120, 97)
    for entry in answer["choices"][0]["logprobs"]["content"]:
        assert [(top["token"], top["logprob"]) for top in entry["top_logprobs"]] == [("x", -12.0), ("a", -9.7)]


async def test_a_completions_map_has_the_chosen_tokens_and_the_sampled_one() -> None:
    answer = await _answer(FakeClient(says("h")), TEXT_URL, {**TEXT, "logprobs": 0, "logprob_token_ids": [120, 97]})
    assert answer["choices"][0]["logprobs"]["top_logprobs"] == [{"x": -12.0, "a": -9.7, "h": -1.04}]


@pytest.mark.parametrize("path", [CHAT_URL, TEXT_URL])
async def test_tokens_can_be_named_by_their_ids(path: str) -> None:
    fields = {"logprobs": True, "top_logprobs": 1} if path == CHAT_URL else {"logprobs": 1}
    body = {**(CHAT if path == CHAT_URL else TEXT), **fields, "return_tokens_as_token_ids": True}
    logprobs = (await _answer(FakeClient(says("h")), path, body))["choices"][0]["logprobs"]
    if path == CHAT_URL:
        (entry,) = logprobs["content"]
        assert (entry["token"], entry["bytes"], entry["top_logprobs"][0]["token"]) == (
            "token_id:104",
            [104],
            "token_id:104",
        )
    else:
        assert (logprobs["tokens"], logprobs["top_logprobs"]) == (["token_id:104"], [{"token_id:104": -1.04}])


async def test_names_by_id_without_logprobs_are_listed_as_ignored() -> None:
    response = await _post(FakeClient(says("h")), TEXT_URL, {**TEXT, "return_tokens_as_token_ids": True})
    assert response.headers["x-ignored-parameters"] == "return_tokens_as_token_ids"


async def test_a_completion_has_the_ids_of_prompt_and_answer() -> None:
    client = FakeClient(says("hi", finish=FinishReason.STOP))
    answer = await _answer(client, TEXT_URL, {**TEXT, "return_token_ids": True})
    choice = answer["choices"][0]
    assert (choice["prompt_token_ids"], choice["token_ids"]) == ([BOS, 97, 98], [104, 105, IM_END])


async def test_ids_end_with_the_text() -> None:
    answer = await _answer(
        FakeClient(says("hixyz", per_step=5)), TEXT_URL, {**TEXT, "return_token_ids": True, "stop": "x"}
    )
    assert answer["choices"][0]["token_ids"] == [104, 105, 120]
    assert answer["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("per_step", [1, 3])
@pytest.mark.parametrize("path", [CHAT_URL, TEXT_URL])
async def test_streamed_ids_join_to_the_whole_ones(path: str, per_step: int) -> None:
    body = {**(CHAT if path == CHAT_URL else TEXT), "return_token_ids": True, "n": 2}
    script = says("höxxy", per_step=per_step, finish=FinishReason.STOP)
    whole = await _answer(FakeClient(script), path, body)
    *chunks, _ = await _answer(FakeClient(script), path, {**body, "stream": True})
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    for index in range(2):
        joined = [i for choice in choices if choice["index"] == index for i in choice.get("token_ids", [])]
        assert joined == whole["choices"][index]["token_ids"]
    holders = chunks if path == CHAT_URL else choices
    expected = whole["prompt_token_ids"] if path == CHAT_URL else whole["choices"][0]["prompt_token_ids"]
    seen = [holder["prompt_token_ids"] for holder in holders if "prompt_token_ids" in holder]
    assert seen == [expected] * (1 if path == CHAT_URL else 2)


async def test_without_the_field_no_ids_are_sent() -> None:
    *chunks, _ = await _answer(FakeClient(says("hi")), CHAT_URL, {**CHAT, "stream": True})
    assert not any("token_ids" in choice for chunk in chunks for choice in chunk["choices"])
