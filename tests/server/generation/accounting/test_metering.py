"""Where a choice's time is counted, by how far it came."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from engine.protocol import FinishReason, RequestOutput
from server.generation.accounting import metering
from server.generation.accounting.metering import ChoiceMeter
from server.metrics.values import Metrics

pytestmark = pytest.mark.fast

MODEL = "m"


class _Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(metering, "time", clock)
    return clock


def _sums(metrics: Metrics) -> dict[str, float]:
    """Seconds and observations of the histograms of a choice's stretches; those without any left out."""
    samples = {
        sample.name.removeprefix("headrace_") + sample.labels.get("outcome", ""): sample.value
        for family in text_string_to_metric_families(metrics.scrape("")[0].decode())
        for sample in family.samples
        if sample.name.endswith(("_time_seconds_sum", "output_token_seconds_sum"))
    }
    return {name.replace("_seconds_sum", ""): value for name, value in samples.items() if value}


def test_a_choice_s_stretches_follow_one_another(clock: _Clock) -> None:
    metrics = Metrics(MODEL)
    meter = ChoiceMeter(metrics, 100.0, 5)
    clock.now_s = 104.0
    meter.count(RequestOutput(id="a", new_ids=[1], queue_s=1.0), 1)
    clock.now_s = 112.0
    meter.count(RequestOutput(id="a", new_ids=[1, 2]), 2)
    clock.now_s = 120.0
    meter.end(FinishReason.STOP)
    assert _sums(metrics) == {
        "request_queue_time": 1.0,
        "queue_timescheduled": 1.0,
        "request_prefill_time": 3.0,
        "request_decode_time": 8.0,
        "request_inference_time": 11.0,
        "request_time_per_output_token": 4.0,
    }


def test_one_that_ends_in_the_queue_has_waited_until_then(clock: _Clock) -> None:
    metrics = Metrics(MODEL)
    meter = ChoiceMeter(metrics, 100.0, 5)
    clock.now_s = 107.0
    meter.end(FinishReason.ABORT)
    meter.end(FinishReason.ERROR)  # the first counts
    assert _sums(metrics) == {"request_queue_time": 7.0, "queue_timeabort": 7.0}


def test_one_that_ends_before_its_first_token_has_a_prefill_until_then(clock: _Clock) -> None:
    metrics = Metrics(MODEL)
    meter = ChoiceMeter(metrics, 100.0, 5)
    clock.now_s = 105.0
    meter.count(RequestOutput(id="a", queue_s=2.0, num_prompt_computed=3), 0)
    meter.end(FinishReason.TIMEOUT)
    assert _sums(metrics) == {
        "request_queue_time": 2.0,
        "queue_timescheduled": 2.0,
        "request_prefill_time": 3.0,
        "request_inference_time": 3.0,
    }


def test_a_search_that_is_left_tells_no_wait(clock: _Clock) -> None:
    metrics = Metrics(MODEL)
    meter = ChoiceMeter(metrics, 100.0, 5, knows_wait=False)
    clock.now_s = 107.0
    meter.end(FinishReason.ABORT)
    assert _sums(metrics) == {}
