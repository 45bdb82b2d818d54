"""OpenAI's predicted outputs: `prediction` on its way to the engine, and what usage says of it."""

from typing import Any

import pytest

from engine.protocol import FinishReason, RequestOutput
from tests.helpers.fake_client import FakeClient, http, make_app, says

CHAT = {"messages": [{"role": "user", "content": "hi"}]}


def _drafting(num_predicted: int, num_drafted: int, num_accepted: int) -> FakeClient:
    output = RequestOutput(
        id="",
        new_ids=list(b"abcdef"),
        finish_reason=FinishReason.LENGTH,
        num_predicted=num_predicted,
        num_drafted=num_drafted,
        num_draft_accepted=num_accepted,
    )
    return FakeClient(lambda request: [_for(request.id, output)])


def _for(request_id: str, output: RequestOutput) -> RequestOutput:
    return RequestOutput(**{**{name: getattr(output, name) for name in output.__struct_fields__}, "id": request_id})


@pytest.mark.parametrize("content", ["abcx", [{"type": "text", "text": "ab"}, {"type": "text", "text": "cx"}]])
async def test_a_prediction_reaches_the_engine_as_tokens(content: Any) -> None:
    client = FakeClient(says("x"))
    async with http(make_app(client)) as api:
        response = await api.post(
            "/v1/chat/completions", json={**CHAT, "prediction": {"type": "content", "content": content}}
        )
    assert response.status_code == 200
    assert "x-ignored-parameters" not in response.headers
    assert client.requests[0].prediction_ids == list(b"abcx")


async def test_usage_tells_accepted_and_rejected_prediction_tokens() -> None:
    client = _drafting(num_predicted=4, num_drafted=9, num_accepted=3)
    body = {**CHAT, "prediction": {"type": "content", "content": "abcd!!!"}, "n": 2}
    async with http(make_app(client)) as api:
        usage = (await api.post("/v1/chat/completions", json=body)).json()["usage"]
    assert usage["completion_tokens"] == 2 * 6
    assert usage["completion_tokens_details"] == {
        "accepted_prediction_tokens": 2 * 4,
        "rejected_prediction_tokens": 2 * 3,
        "drafted_tokens": 2 * 9,
        "accepted_draft_tokens": 2 * 3,
    }


async def test_usage_has_no_such_details_where_nothing_was_drafted() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        usage = (await api.post("/v1/chat/completions", json=CHAT)).json()["usage"]
    assert "completion_tokens_details" not in usage
