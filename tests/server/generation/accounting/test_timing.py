"""Where a request's time went: the stretches add up, and answers tell them to whom asks."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.protocol import EngineRequest, FinishReason, RequestOutput
from server.generation.accounting import metering
from server.generation.accounting.metering import ChoiceMeter
from server.generation.accounting.totals import request_times
from server.metrics.values import Metrics
from tests.helpers.fake_client import FakeClient, Script, Step, http, make_app, says
from tests.helpers.sse import events

pytestmark = pytest.mark.fast

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
CHAT_TOKENS = 21
CHAT_URL, TEXT_URL = "/v1/chat/completions", "/v1/completions"
BODIES: list[tuple[str, dict[str, Any]]] = [(CHAT_URL, CHAT), (TEXT_URL, {"prompt": "hi"})]
METRICS = Metrics("m")


class Clock:
    """`time` for a module under test."""

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(1000.0)
    monkeypatch.setattr(metering, "time", clock)
    return clock


def meter_of(arrival_s: float, queue_s: float, first_s: float, last_s: float) -> ChoiceMeter:
    meter = ChoiceMeter(METRICS, arrival_s, 1)
    meter.queue_s, meter.first_token_s, meter.last_token_s = queue_s, first_s, last_s
    return meter


_STRETCHES = st.tuples(*[st.floats(0, 1e4)] * 3)


@given(st.floats(0, 1e6), st.lists(_STRETCHES, min_size=1, max_size=4))
def test_the_stretches_add_up_to_the_last_token(arrival_s: float, stretches: list[tuple[float, float, float]]) -> None:
    meters = []
    for queue_s, prompt_s, output_s in stretches:
        first_s = arrival_s + queue_s + prompt_s
        meters.append(meter_of(arrival_s, queue_s, first_s, first_s + output_s))
    times = request_times(arrival_s, meters)
    last_s = max(meter.last_token_s or 0.0 for meter in meters)
    assert min(times.queue_s, times.prompt_s, times.output_s) >= 0
    assert times.queue_s + times.prompt_s + times.output_s == pytest.approx(last_s - arrival_s, abs=1e-6)


def test_a_meter_sees_first_and_last_token(clock: Clock) -> None:
    meter = ChoiceMeter(METRICS, 998.0, 1)
    meter.count(RequestOutput(id="a", new_ids=[1, 2], queue_s=0.5), 2)
    clock.now_s = 1003.0
    meter.count(RequestOutput(id="a", new_ids=[3]), 1)
    meter.count(RequestOutput(id="a", finish_reason=FinishReason.LENGTH), 0)
    times = request_times(998.0, [meter])
    assert (times.queue_s, times.prompt_s, times.output_s) == (0.5, 1.5, 3.0)


def test_a_line_of_a_batch_has_its_first_token_when_the_engine_had_it(clock: Clock) -> None:
    """Its tokens come in groups."""
    for is_timed, first_token_s in ((False, 999.0), (True, clock.now_s)):
        meter = ChoiceMeter(METRICS, 998.0, 1, is_timed=is_timed)
        meter.count(RequestOutput(id="a", new_ids=[1, 2], queue_s=0.5, first_token_s=999.0), 2)
        assert (meter.first_token_s, meter.last_token_s) == (first_token_s, clock.now_s)


async def _post(client: FakeClient, path: str, body: dict[str, Any], **options: Any) -> Any:
    async with http(make_app(client, **options)) as api:
        response = await api.post(path, json=body)
    assert response.status_code == 200, response.text
    return response


async def _chunks(client: FakeClient, path: str, body: dict[str, Any], **options: Any) -> list[Any]:
    return events((await _post(client, path, {**body, "stream": True}, **options)).text)[:-1]


TIMINGS = [
    "cache_n",
    "prompt_n",
    "prompt_ms",
    "prompt_per_token_ms",
    "prompt_per_second",
    "predicted_n",
    "predicted_ms",
    "predicted_per_token_ms",
    "predicted_per_second",
    "queue_ms",
]


@pytest.mark.parametrize(("path", "body"), BODIES)
async def test_nothing_is_told_that_was_not_asked_for(path: str, body: dict[str, Any]) -> None:
    whole = await _post(FakeClient(says("abc")), path, body)
    streamed = await _post(FakeClient(says("abc")), path, {**body, "stream": True})
    for name in ("timings", "metrics", "prompt_progress"):
        assert name not in whole.json()
        assert name not in streamed.text


async def test_a_whole_answer_tells_its_timings() -> None:
    answer = (await _post(FakeClient(says("abc")), CHAT_URL, {**CHAT, "timings_per_token": True})).json()
    timings = answer["timings"]
    assert list(timings) == TIMINGS
    assert (timings["cache_n"], timings["prompt_n"], timings["predicted_n"]) == (2, CHAT_TOKENS - 2, 3)
    assert timings["queue_ms"] == 250.0
    assert timings["predicted_per_token_ms"] == pytest.approx(timings["predicted_ms"] / 3)


@pytest.mark.parametrize(("path", "body"), BODIES)
async def test_each_chunk_tells_the_timings_so_far(path: str, body: dict[str, Any]) -> None:
    chunks = await _chunks(FakeClient(says("abc")), path, {**body, "timings_per_token": True})
    counts = [chunk["timings"]["predicted_n"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == 3


def drafted(request: EngineRequest) -> list[Step]:
    first = RequestOutput(id=request.id, new_ids=[65, 66], num_drafted=3, num_draft_accepted=1)
    return [first, RequestOutput(id=request.id, finish_reason=FinishReason.LENGTH)]


@pytest.mark.parametrize(("script", "draft"), [(drafted, (3, 1)), (says("ab"), None)])
async def test_drafts_are_told_where_there_are_any(script: Script, draft: tuple[int, int] | None) -> None:
    timings = (await _post(FakeClient(script), CHAT_URL, {**CHAT, "timings_per_token": True})).json()["timings"]
    assert ("draft_n" in timings) == (draft is not None)
    if draft is not None:
        assert (timings["draft_n"], timings["draft_n_accepted"]) == draft


@pytest.mark.parametrize(("path", "body"), BODIES)
async def test_metrics_come_with_the_option(path: str, body: dict[str, Any]) -> None:
    answer = (await _post(FakeClient(says("abc")), path, body, enable_per_request_metrics=True)).json()
    assert list(answer["metrics"]) == [
        "time_to_first_token_ms",
        "generation_time_ms",
        "queue_time_ms",
        "mean_itl_ms",
        "tokens_per_second",
    ]
    assert answer["metrics"]["queue_time_ms"] == 250.0
    assert answer["metrics"]["mean_itl_ms"] == pytest.approx(answer["metrics"]["generation_time_ms"] / 2)


async def test_metrics_of_a_stream_are_in_its_usage_chunk() -> None:
    body = {**CHAT, "stream_options": {"include_usage": True}}
    *others, last = await _chunks(FakeClient(says("abc")), CHAT_URL, body, enable_per_request_metrics=True)
    assert last["metrics"]["queue_time_ms"] == 250.0
    assert "metrics" not in json.dumps(others)


async def test_metrics_are_those_of_one_choice() -> None:
    answer = (await _post(FakeClient(says("a")), CHAT_URL, {**CHAT, "n": 2}, enable_per_request_metrics=True)).json()
    assert "metrics" not in answer


async def test_one_token_has_no_mean_between_tokens() -> None:
    answer = (await _post(FakeClient(says("a")), CHAT_URL, CHAT, enable_per_request_metrics=True)).json()
    assert answer["metrics"]["mean_itl_ms"] is None


@pytest.mark.parametrize(("path", "body"), BODIES)
async def test_continuous_usage_is_in_every_chunk(path: str, body: dict[str, Any]) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = await _chunks(FakeClient(says("abc")), path, {**body, "stream_options": options})
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == 3
    assert len({chunk["usage"]["prompt_tokens"] for chunk in chunks}) == 1


async def test_continuous_usage_without_usage_is_refused() -> None:
    body = {**CHAT, "stream": True, "stream_options": {"continuous_usage_stats": True}}
    async with http(make_app(FakeClient(says("a")))) as api:
        response = await api.post(CHAT_URL, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "stream_options.continuous_usage_stats"
