"""return_progress: chunks that tell how far the prompt is."""

from typing import Any

import pytest

from engine.client.output_stream import merge_outputs
from engine.protocol import EngineRequest, FinishReason, RequestOutput
from tests.helpers.fake_client import FakeClient, Step, http, make_app, says
from tests.helpers.sse import contents, events

pytestmark = pytest.mark.fast

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
CHAT_URL, TEXT_URL = "/v1/chat/completions", "/v1/completions"
BODIES: list[tuple[str, dict[str, Any], int]] = [(CHAT_URL, CHAT, 21), (TEXT_URL, {"prompt": "h" * 20}, 21)]


def in_steps(request: EngineRequest) -> list[Step]:
    """The prompt in three steps, with the first of two tokens in the last."""
    fields = {"id": request.id, "num_cached_tokens": 4}
    total = len(request.prompt_ids)
    return [
        RequestOutput(**fields, num_prompt_computed=8, queue_s=0.25),
        RequestOutput(**fields, num_prompt_computed=16, queue_s=0.25),
        RequestOutput(**fields, num_prompt_computed=total, queue_s=0.25, new_ids=[ord("a")]),
        RequestOutput(**fields, new_ids=[ord("b")], finish_reason=FinishReason.LENGTH),
    ]


@pytest.mark.parametrize(("path", "body", "total"), BODIES)
async def test_chunks_tell_how_far_the_prompt_is(path: str, body: dict[str, Any], total: int) -> None:
    client = FakeClient(in_steps)
    async with http(make_app(client)) as api:
        response = await api.post(path, json={**body, "stream": True, "return_progress": True})
    *chunks, _ = events(response.text)
    told = [chunk["prompt_progress"] for chunk in chunks if "prompt_progress" in chunk]
    assert [(each["total"], each["cache"], each["processed"]) for each in told] == [
        (total, 4, 8),
        (total, 4, 16),
        (total, 4, total),
    ]
    assert all(each["time_ms"] >= 0 for each in told)
    text = contents(chunks) if path == CHAT_URL else "".join(chunk["choices"][0]["text"] for chunk in chunks)
    assert text == "ab"
    assert client.requests[0].reports_progress


async def test_timings_count_what_is_computed_of_the_prompt() -> None:
    body = {**CHAT, "stream": True, "return_progress": True, "timings_per_token": True}
    async with http(make_app(FakeClient(in_steps))) as api:
        *chunks, _ = events((await api.post(CHAT_URL, json=body)).text)
    told = [chunk["timings"]["prompt_n"] for chunk in chunks if "prompt_progress" in chunk]
    assert told == [8 - 4, 16 - 4, 21 - 4]


@pytest.mark.parametrize(("path", "body", "total"), BODIES)
async def test_progress_comes_to_whom_asks_alone(path: str, body: dict[str, Any], total: int) -> None:  # noqa: ARG001
    client = FakeClient(says("x"))
    async with http(make_app(client)) as api:
        response = await api.post(path, json={**body, "stream": True, "return_progress": False})
    assert "prompt_progress" not in response.text
    assert not client.requests[0].reports_progress


async def test_progress_needs_a_stream() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        response = await api.post(CHAT_URL, json={**CHAT, "return_progress": True})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "return_progress"


async def test_an_echo_comes_behind_the_progress() -> None:
    body = {"prompt": "h" * 20, "echo": True, "stream": True, "return_progress": True}
    async with http(make_app(FakeClient(in_steps))) as api:
        response = await api.post(TEXT_URL, json=body)
    texts = [chunk["choices"][0]["text"] for chunk in events(response.text)[:-1]]
    assert texts[:2] == ["", ""]
    assert "".join(texts) == "h" * 20 + "ab"


def test_merged_outputs_tell_the_last_progress_and_why_a_request_was_refused() -> None:
    first = RequestOutput(id="a", num_prompt_computed=8)
    merged = merge_outputs([first, RequestOutput(id="a", num_prompt_computed=16)])
    assert merge_outputs([merged, RequestOutput(id="a", new_ids=[1])]).num_prompt_computed == 16
    refusal = RequestOutput(id="a", finish_reason=FinishReason.ERROR, is_refused=True, refused_param="x")
    refused = merge_outputs([first, refusal])
    assert (refused.is_refused, refused.refused_param) == (True, "x")
