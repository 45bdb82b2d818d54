"""OpenAI's predicted outputs: `prediction` on its way to the engine, and what usage says of it."""

from typing import Any

import pytest

from engine.engine import Engine
from engine.protocol import EngineRequest, FinishReason, RequestOutput
from tests.helpers import ledger
from tests.helpers.drafting import AlwaysFull, speculating_engine
from tests.helpers.engines import expected_ids
from tests.helpers.fake_client import MAX_MODEL_LEN, FakeClient, Script, Step, http, make_app, says

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


async def test_a_prediction_that_no_answer_can_be_is_refused() -> None:
    body = {**CHAT, "prediction": {"type": "content", "content": "x" * (MAX_MODEL_LEN + 1)}}
    async with http(make_app(FakeClient(says("x")))) as api:
        response = await api.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "prediction"
    assert "has 201 tokens; prompt and answer can have 200; shorten it" in error["message"]


# --- a real engine, over the ledger ---------------------------------------------------------------------------------


def _engine_script(engine: Engine) -> Script:
    """Each request runs to its end before its first output is read."""

    def script(request: EngineRequest) -> list[Step]:
        engine.add(request)
        outputs: list[Step] = []
        while engine.has_work:
            outputs += engine.step().outputs
        return outputs

    return script


async def _usage(body: dict[str, Any]) -> dict[str, Any]:
    engine, _ = speculating_engine(AlwaysFull(4), max_model_len=MAX_MODEL_LEN)
    async with http(make_app(FakeClient(_engine_script(engine)))) as api:
        response = await api.post("/v1/chat/completions", json={**CHAT, "ignore_eos": True, **body})
    usage: dict[str, Any] = response.json()["usage"]
    return usage


def _prediction(ids: list[int]) -> dict[str, Any]:
    return {"prediction": {"type": "content", "content": bytes(ids).decode()}}


async def test_a_right_prediction_is_accepted_whole() -> None:
    client = FakeClient(says("x"))
    async with http(make_app(client)) as api:
        await api.post("/v1/chat/completions", json={**CHAT, "seed": 5, "max_tokens": 30, "ignore_eos": True})
    expected = expected_ids(client.requests[0])
    usage = await _usage({"seed": 5, "max_tokens": 30, **_prediction([*expected, 1, 2])})
    details = usage["completion_tokens_details"]
    assert usage["completion_tokens"] == 30
    assert (details["accepted_prediction_tokens"], details["rejected_prediction_tokens"]) == (30, 2)
    assert 20 <= details["accepted_draft_tokens"] <= details["drafted_tokens"] < 30


@pytest.mark.parametrize("n", [1, 3])
async def test_an_answer_that_repeats_its_prediction_rejects_none_of_it(
    monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    monkeypatch.setattr(ledger, "next_token", lambda history, _: history[-1] % 5 + 1)
    details = (await _usage({"max_tokens": 40, "n": n, **_prediction([1, 2, 3, 4, 5])}))["completion_tokens_details"]
    assert details["accepted_prediction_tokens"] == 5 * n
    assert details["rejected_prediction_tokens"] == 0


async def test_a_wrong_prediction_is_rejected_whole() -> None:
    details = (await _usage({"seed": 5, "max_tokens": 9, **_prediction([99] * 20)}))["completion_tokens_details"]
    assert (details["accepted_prediction_tokens"], details["rejected_prediction_tokens"]) == (0, 20)
