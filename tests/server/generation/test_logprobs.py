"""Log probabilities in both formats, alone and with echo, whole and streamed."""

from typing import Any

import pytest

from engine.protocol import FinishReason
from tests.helpers.fake_client import FakeClient, http, make_app, says
from tests.helpers.sse import events

pytestmark = pytest.mark.fast

CHAT = {"messages": [{"role": "user", "content": "hi"}]}


async def _post(client: FakeClient, path: str, body: dict[str, Any]) -> Any:
    async with http(make_app(client)) as api:
        response = await api.post(path, json=body)
    assert response.status_code == 200, response.text
    return events(response.text) if body.get("stream") else response.json()


async def test_chat_reports_each_token_with_the_best() -> None:
    client = FakeClient(says("hé", finish=FinishReason.STOP))
    answer = await _post(client, "/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 2})
    content = answer["choices"][0]["logprobs"]["content"]
    assert client.requests[0].sampling.logprobs == 2
    assert [token["token"] for token in content] == ["h", "bytes:\\xc3", "bytes:\\xa9", "<|im_end|>"]
    assert [token["bytes"] for token in content] == [[104], [0xC3], [0xA9], list(b"<|im_end|>")]
    assert content[0]["logprob"] == -1.04
    assert content[0]["top_logprobs"] == [
        {"token": "h", "logprob": -1.04, "bytes": [104]},
        {"token": "g", "logprob": -2.04, "bytes": [103]},
    ]
    assert answer["choices"][0]["logprobs"]["refusal"] is None


async def test_chat_without_top_logprobs_reports_tokens_alone() -> None:
    answer = await _post(FakeClient(says("h")), "/v1/chat/completions", {**CHAT, "logprobs": True})
    assert answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []


@pytest.mark.parametrize("per_step", [1, 2, 5])
async def test_streamed_chat_logprobs_join_to_the_whole_ones(per_step: int) -> None:
    body = {**CHAT, "logprobs": True, "top_logprobs": 1, "stop": "xy"}
    whole = await _post(FakeClient(says("höxxyz", per_step=per_step)), "/v1/chat/completions", body)
    *chunks, _ = await _post(
        FakeClient(says("höxxyz", per_step=per_step)), "/v1/chat/completions", {**body, "stream": True}
    )
    joined = [t for chunk in chunks for t in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]]
    assert joined == whole["choices"][0]["logprobs"]["content"]
    assert len(joined) == whole["usage"]["completion_tokens"] == 6


async def test_completions_report_parallel_lists() -> None:
    answer = await _post(FakeClient(says("hi")), "/v1/completions", {"prompt": "a", "logprobs": 2})
    assert answer["choices"][0]["logprobs"] == {
        "tokens": ["h", "i"],
        "token_logprobs": [-1.04, -1.05],
        "top_logprobs": [{"h": -1.04, "g": -2.04}, {"i": -1.05, "h": -2.05}],
        "text_offset": [0, 1],
    }


async def test_the_token_itself_is_always_in_the_map() -> None:
    answer = await _post(FakeClient(says("hi")), "/v1/completions", {"prompt": "a", "logprobs": 0})
    assert answer["choices"][0]["logprobs"]["top_logprobs"] == [{"h": -1.04}, {"i": -1.05}]


async def test_echo_puts_the_prompt_in_front() -> None:
    answer = await _post(FakeClient(says("hi")), "/v1/completions", {"prompt": ["ab", "c"], "echo": True})
    assert [choice["text"] for choice in answer["choices"]] == ["abhi", "chi"]


async def test_echo_of_ids_is_their_text() -> None:
    answer = await _post(FakeClient(says("hi")), "/v1/completions", {"prompt": [97, 98], "echo": True})
    assert answer["choices"][0]["text"] == "abhi"


async def test_echo_with_logprobs_scores_the_prompt_but_its_first_token() -> None:
    client = FakeClient(says("hi"))
    answer = await _post(client, "/v1/completions", {"prompt": "ab", "echo": True, "logprobs": 1})
    assert client.requests[0].sampling.prompt_logprobs == 1
    assert answer["choices"][0]["logprobs"] == {
        "tokens": ["<|bos|>", "a", "b", "h", "i"],
        "token_logprobs": [None, -0.97, -0.98, -1.04, -1.05],
        "top_logprobs": [None, {"a": -0.97}, {"b": -0.98}, {"h": -1.04}, {"i": -1.05}],
        "text_offset": [0, 0, 1, 2, 3],
    }


async def test_echo_alone_scores_a_text_without_generating() -> None:
    client = FakeClient(says(""))
    body = {"prompt": "ab", "echo": True, "logprobs": 0, "max_tokens": 0}
    answer = await _post(client, "/v1/completions", body)
    assert client.requests[0].sampling.max_tokens == 0
    choice = answer["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("ab", "length")
    assert choice["logprobs"]["token_logprobs"] == [None, -0.97, -0.98]
    assert answer["usage"]["completion_tokens"] == 0


async def test_streamed_echo_and_logprobs_join_to_the_whole_ones() -> None:
    body = {"prompt": "ab", "echo": True, "logprobs": 1}
    whole = (await _post(FakeClient(says("wörd")), "/v1/completions", body))["choices"][0]
    *chunks, _ = await _post(FakeClient(says("wörd")), "/v1/completions", {**body, "stream": True})
    parts = [chunk["choices"][0] for chunk in chunks]
    assert "".join(part["text"] for part in parts) == whole["text"]
    for name, values in whole["logprobs"].items():
        assert [value for part in parts if part["logprobs"] for value in part["logprobs"][name]] == values
