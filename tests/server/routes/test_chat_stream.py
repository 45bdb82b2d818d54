"""The exact shape of a streamed chat completion."""

import re
from typing import Any

import pytest

from engine.errors import EngineDied, EngineStopped
from engine.protocol import EngineRequest, FinishReason, RequestOutput
from server.protocols.frame import TextFrames
from server.protocols.reports import Reports
from tests.helpers.chat_templates import TOOL_TEMPLATE
from tests.helpers.fake_client import FINGERPRINT, IM_END, FakeClient, Step, http, make_app, says, says_ids
from tests.helpers.sse import contents, events

pytestmark = pytest.mark.fast

CHAT_URL = "/v1/chat/completions"
CHAT = {"messages": [{"role": "user", "content": "hi"}]}
USAGE = {"include_usage": True, "continuous_usage_stats": True}
STREAM = {**CHAT, "stream": True}


async def _stream(client: FakeClient, **body: Any) -> list[Any]:
    async with http(make_app(client)) as api:
        response = await api.post("/v1/chat/completions", json={**STREAM, **body})
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"
    return events(response.text)


async def test_a_stream_is_role_deltas_finish_and_end_mark() -> None:
    *chunks, end = await _stream(FakeClient(says("Hi!", finish=FinishReason.STOP)))
    assert end == "[DONE]"
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "H"},
        {"content": "i"},
        {"content": "!"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, None, "stop"]


async def test_all_chunks_share_id_time_model_and_type() -> None:
    *chunks, _ = await _stream(FakeClient(says("Hi!")))
    heads = {(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks}
    assert len(heads) == 1
    ((name, _, model, kind),) = heads
    assert name.startswith("chatcmpl-")
    assert (model, kind) == ("org/tiny", "chat.completion.chunk")
    assert not any("usage" in chunk for chunk in chunks)


async def test_usage_comes_in_a_last_chunk_without_choices() -> None:
    *chunks, last, _ = await _stream(FakeClient(says("Hi!")), stream_options={"include_usage": True})
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 21,
        "completion_tokens": 3,
        "total_tokens": 24,
        "prompt_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
    }


async def test_streamed_and_whole_answers_are_the_same() -> None:
    client = FakeClient(says("a wörd — 日本 🙂 end", per_step=2))
    *chunks, _ = await _stream(client)
    async with http(make_app(client)) as api:
        whole = (await api.post("/v1/chat/completions", json=CHAT)).json()
    assert contents(chunks) == whole["choices"][0]["message"]["content"] == "a wörd — 日本 🙂 end"


async def test_a_whole_answer_has_openais_shape() -> None:
    async with http(make_app(FakeClient(says("Hi", finish=FinishReason.STOP)))) as api:
        answer = (await api.post("/v1/chat/completions", json=CHAT)).json()
    assert answer.pop("id").startswith("chatcmpl-")
    assert isinstance(answer.pop("created"), int)
    assert answer == {
        "object": "chat.completion",
        "model": "org/tiny",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
            }
        ],
        "usage": {
            "prompt_tokens": 21,
            "completion_tokens": 3,
            "total_tokens": 24,
            "prompt_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        },
        "system_fingerprint": FINGERPRINT,
    }


@pytest.mark.parametrize(("kind", "code"), [(EngineDied, "engine_died"), (EngineStopped, "server_stopping")])
async def test_the_end_of_the_engine_midway_is_an_error_event(kind: type[EngineDied], code: str) -> None:
    def script(request: EngineRequest) -> list[Step]:
        return [RequestOutput(id=request.id, new_ids=[72]), kind("the engine ended; send it again")]

    *_, content, error, end = await _stream(FakeClient(script))
    assert content["choices"][0]["delta"] == {"content": "H"}
    assert error == {
        "error": {
            "message": "the engine ended; send it again",
            "type": "server_error",
            "param": None,
            "code": code,
        }
    }
    assert end == "[DONE]"


async def test_an_error_before_the_first_token_is_an_ordinary_error() -> None:
    def script(request: EngineRequest) -> list[Step]:
        return [RequestOutput(id=request.id, finish_reason=FinishReason.ERROR, error="its logits are not finite")]

    async with http(make_app(FakeClient(script))) as api:
        response = await api.post("/v1/chat/completions", json=STREAM)
    assert response.status_code == 500
    assert response.json()["error"]["message"] == "its logits are not finite"
    assert response.headers["content-type"] == "application/json"


async def test_what_nobody_expects_midway_hides_its_text(caplog: Any) -> None:
    def script(request: EngineRequest) -> list[Step]:
        return [RequestOutput(id=request.id, new_ids=[72]), RuntimeError("secret")]

    *_, error, end = await _stream(FakeClient(script))
    assert error["error"]["type"] == "server_error"
    assert "secret" not in error["error"]["message"]
    assert "secret" in caplog.text
    assert end == "[DONE]"


async def test_characters_at_which_clients_split_lines_are_escaped() -> None:
    text = "a\u2028b\u2029c\u0085d"
    async with http(make_app(FakeClient(says(text)))) as api, api.stream("POST", CHAT_URL, json=STREAM) as response:
        lines = [line async for line in response.aiter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert contents(events("".join(f"{line}\n\n" for line in lines))) == text


TOOLS = {"tools": [{"type": "function", "function": {"name": "now"}}]}


@pytest.mark.parametrize(
    ("url", "fields"),
    [("/v1/completions", {"prompt": "a"}), ("/v1/chat/completions", CHAT), ("/v1/chat/completions", {**CHAT, **TOOLS})],
)
async def test_each_counted_token_has_a_chunk_even_without_text(url: str, fields: dict[str, Any]) -> None:
    client = FakeClient(says_ids([IM_END, 104, IM_END, 32, 105, 0xC3, 0xA4, IM_END], finish=FinishReason.LENGTH))
    body = {"stream": True, "ignore_eos": True, "stream_options": USAGE, **fields}
    async with http(make_app(client, chat_template=TOOL_TEMPLATE)) as api:
        chunks = events((await api.post(url, json=body)).text)[:-1]
    counted = [chunk["usage"]["completion_tokens"] for chunk in chunks if chunk["choices"]]
    assert set(counted) - {0} == {1, 2, 3, 4, 5, 6, 7, 8}


@pytest.mark.parametrize(
    ("url", "body"),
    [
        ("/v1/chat/completions", {**STREAM, "n": 2, "stream_options": {"include_usage": True}}),
        ("/v1/chat/completions", {**STREAM, "stop": ["zz"]}),
        ("/v1/chat/completions", {**STREAM, **TOOLS}),
        ("/v1/completions", {"prompt": "hi", "n": 2, "stream": True}),
    ],
)
async def test_a_text_put_into_an_encoded_chunk_is_as_if_the_chunk_were_encoded(
    url: str, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = FakeClient(says('a "quoted"\nline, \u00e9\u2028\U0001f600'))
    app = make_app(client, chat_template=TOOL_TEMPLATE)
    put: list[str] = []
    whole = TextFrames.frame

    def noted(self: TextFrames, index: int, text: str) -> bytes:
        put.append(text)
        return whole(self, index, text)

    monkeypatch.setattr(TextFrames, "frame", noted)
    async with http(app) as api:
        got = (await api.post(url, json=body)).text
        assert len(put) >= 10
        put.clear()
        monkeypatch.setattr(Reports, "are_constant", False)
        encoded = (await api.post(url, json=body)).text
    assert not put
    assert _without_id(got) == _without_id(encoded)


def _without_id(stream: str) -> str:
    return re.sub(r'"id":"[^"]*"|"created":[0-9]+', "", stream)
