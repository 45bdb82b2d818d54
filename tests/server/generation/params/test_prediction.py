"""OpenAI's predicted outputs: `prediction` on its way to the engine, and what usage says of it."""

from typing import Any

import pytest

from engine.engine import Engine
from engine.protocol import EngineRequest, FinishReason, RequestOutput
from tests.helpers import ledger
from tests.helpers.drafting import AlwaysFull, speculating_engine
from tests.helpers.engines import expected_ids
from tests.helpers.fake_client import MAX_MODEL_LEN, FakeClient, Script, Step, http, make_app, says
from tests.helpers.sse import contents, events

CHAT = {"messages": [{"role": "user", "content": "hi"}]}


def _drafting(num_predicted: int, num_drafted: int, num_accepted: int) -> FakeClient:
    output = RequestOutput(
        id="",
        new_ids=list(b"abcdef"),
        finish_reason=FinishReason.LENGTH,
        num_predicted=[min(n, num_predicted) for n in range(1, 7)],
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
        "reasoning_tokens": 0,
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
    return (await _answer(body))[2]


Answer = tuple[list[str], list[str], dict[str, Any]]


async def _answer(body: dict[str, Any], longest: int = 4, *, stream: bool = False) -> Answer:
    """Each choice's text and finish reason, and the usage, with drafts of up to `longest` tokens."""
    engine, _ = speculating_engine(AlwaysFull(longest), max_model_len=MAX_MODEL_LEN)
    body = {**CHAT, "ignore_eos": True, **body}
    streaming = {"stream": True, "stream_options": {"include_usage": True}}
    async with http(make_app(FakeClient(_engine_script(engine)))) as api:
        response = await api.post("/v1/chat/completions", json=body | (streaming if stream else {}))
    if not stream:
        choices = response.json()["choices"]
        texts = [choice["message"]["content"] for choice in choices]
        return texts, [choice["finish_reason"] for choice in choices], response.json()["usage"]
    *chunks, last, _ = events(response.text)
    reasons = {c["index"]: c["finish_reason"] for chunk in chunks for c in chunk["choices"] if c["finish_reason"]}
    return [contents(chunks, index) for index in sorted(reasons)], [reasons[i] for i in sorted(reasons)], last["usage"]


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


@pytest.mark.parametrize("stop_at", [0, 2, 7, 13, 22])
async def test_text_and_usage_are_those_without_drafts_wherever_a_stop_string_ends_them(stop_at: int) -> None:
    """Also within an accepted draft, whole and streamed, of each of several choices."""
    body = {"seed": 5, "max_tokens": 30, "n": 2}
    (text, _), _, _ = await _answer(body)
    predicted = text[:10] + "x" + text[11:]
    body |= {"stop": text[stop_at : stop_at + 2], "prediction": {"type": "content", "content": predicted}}
    plain = await _answer(body, 0)
    assert plain[0][0] == text[:stop_at]
    assert plain[1][0] == "stop"
    names = ("accepted_prediction_tokens", "rejected_prediction_tokens")
    for longest in (1, 4, 15):
        for stream in (False, True):
            texts, reasons, usage = await _answer(body, longest, stream=stream)
            assert (texts, reasons) == plain[:2]
            assert usage["completion_tokens"] == plain[2]["completion_tokens"]
            details, plain_details = usage["completion_tokens_details"], plain[2]["completion_tokens_details"]
            assert [details[name] for name in names] == [plain_details[name] for name in names]
            assert details["drafted_tokens"] > 0


async def test_a_wrong_prediction_is_rejected_and_counts_nowhere() -> None:
    (text, *_), _, _ = await _answer({"seed": 5, "max_tokens": 9})
    usage = await _usage({"seed": 5, "max_tokens": 9, "prediction": {"type": "content", "content": text[0] + "c" * 19}})
    assert usage["completion_tokens"] == 9
    assert usage["total_tokens"] == usage["prompt_tokens"] + 9
    details = usage["completion_tokens_details"]
    assert (details["accepted_prediction_tokens"], details["rejected_prediction_tokens"]) == (1, 19)
    assert details["drafted_tokens"] > details["accepted_draft_tokens"] == 0
