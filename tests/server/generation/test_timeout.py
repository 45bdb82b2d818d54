"""A request's own time: what becomes of its answer when it is over."""

from typing import Any

import pytest

from engine.protocol import EngineRequest, FinishReason, RequestOutput
from tests.helpers.fake_client import FakeClient, Script, Step, http, make_app, says
from tests.helpers.sse import contents, events

pytestmark = pytest.mark.fast

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
CHAT_URL, TEXT_URL = "/v1/chat/completions", "/v1/completions"


def runs_out_after(*texts: str) -> Script:
    """A script for choices 0, 1, ... in turn: each says its text, and then its time is over."""
    turn = iter(texts)

    def script(request: EngineRequest) -> list[Step]:
        ids = list(next(turn).encode())
        tokens: list[Step] = [RequestOutput(id=request.id, new_ids=[token_id]) for token_id in ids]
        return [*tokens, RequestOutput(id=request.id, finish_reason=FinishReason.TIMEOUT)]

    return script


async def _post(client: FakeClient, path: str = CHAT_URL, options: dict[str, Any] | None = None, **body: Any) -> Any:
    async with http(make_app(client, **(options or {}))) as api:
        return await api.post(path, json={**(CHAT if path == CHAT_URL else {"prompt": "hi"}), **body})


@pytest.mark.parametrize("path", [CHAT_URL, TEXT_URL])
async def test_the_part_of_the_answer_that_there_is_is_an_answer_cut_off(path: str) -> None:
    response = await _post(FakeClient(runs_out_after("some")), path, timeout=2.5)
    assert response.status_code == 200
    choice = response.json()["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("length", "timeout")
    assert (choice["message"]["content"] if path == CHAT_URL else choice["text"]) == "some"


async def test_a_stream_ends_as_one_that_is_cut_off() -> None:
    response = await _post(FakeClient(runs_out_after("some")), stream=True, timeout=2.5)
    *chunks, done = events(response.text)
    assert (contents(chunks), done) == ("some", "[DONE]")
    finish = chunks[-1]["choices"][0]
    assert (finish["finish_reason"], finish["stop_reason"]) == ("length", "timeout")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 2])
async def test_an_answer_that_has_not_begun_is_an_error_that_clients_do_not_repeat(stream: bool, n: int) -> None:
    response = await _post(FakeClient(runs_out_after("", "")), stream=stream, n=n, timeout=2.5)
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "timeout"
    assert "2.5 s" in response.json()["error"]["message"]
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("texts", [("", "some"), ("some", "")])
async def test_one_choice_with_a_token_makes_an_answer(texts: tuple[str, str]) -> None:
    response = await _post(FakeClient(runs_out_after(*texts)), n=2, timeout=1)
    assert response.status_code == 200
    choices = response.json()["choices"]
    assert [choice["message"]["content"] for choice in choices] == list(texts)
    assert {choice["finish_reason"] for choice in choices} == {"length"}


@pytest.mark.parametrize(
    ("options", "fields", "seconds"),
    [
        ({}, {}, None),
        ({}, {"timeout": None}, None),
        ({}, {"timeout": 3}, 3.0),
        ({"request_timeout": 60.0}, {}, 60.0),
        ({"request_timeout": 60.0}, {"timeout": 0.5}, 0.5),
    ],
)
async def test_the_engine_is_told_the_deadline(
    options: dict[str, Any], fields: dict[str, Any], seconds: float | None
) -> None:
    client = FakeClient(says("x"))
    assert (await _post(client, options=options, **fields)).status_code == 200
    (request,) = client.requests
    assert (request.deadline_s is None) if seconds is None else (request.deadline_s == request.arrival_s + seconds)


@pytest.mark.parametrize("timeout", [0, -1, 1e6, "5", True])
async def test_a_timeout_is_a_positive_number_of_at_most_a_week(timeout: object) -> None:
    response = await _post(FakeClient(says("x")), timeout=timeout)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "timeout"


async def test_a_timeout_has_a_finished_reason_of_its_own_in_the_metrics() -> None:
    async with http(make_app(FakeClient(runs_out_after("some", "")))) as api:
        for _ in range(2):
            await api.post(CHAT_URL, json={**CHAT, "timeout": 1})
        metrics = (await api.get("/metrics")).text
    assert 'headrace_request_success_total{finished_reason="timeout",model_name="org/tiny"} 2.0' in metrics
