"""The arithmetic of latencies, percentiles and goodput, on traces made by hand."""

import math

import pytest

from engine.errors import StartupError
from server.loadtest.metrics import Distribution, Latency, Trace, is_good, parse_goodput, percentile, summarize

pytestmark = pytest.mark.fast


def make_trace(sent_s: float, text_s: list[float], last_s: float, output_tokens: int, **rest: object) -> Trace:
    return Trace(sent_s=sent_s, text_s=text_s, last_s=last_s, output_tokens=output_tokens, prompt_tokens=10, **rest)  # type: ignore[arg-type]


def test_latencies_of_a_trace() -> None:
    trace = make_trace(10.0, [10.5, 10.6, 10.8], 10.9, 5)
    assert trace.ttft_ms == pytest.approx(500)
    assert trace.tpot_ms == pytest.approx(100)  # 0.4 s over the 4 tokens after the first, not over the 2 later chunks
    assert trace.itl_ms == pytest.approx([100, 200])
    assert trace.e2el_ms == pytest.approx(900)


def test_a_single_token_has_no_time_per_token() -> None:
    trace = make_trace(0.0, [1.0], 1.0, 1)
    assert trace.tpot_ms is None
    assert trace.itl_ms == []


def test_tokens_without_text_show_when_the_stream_ends() -> None:
    trace = make_trace(0.0, [], 2.0, 4)
    assert trace.ttft_ms == pytest.approx(2000)
    assert trace.tpot_ms == pytest.approx(0)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (0.25, 1.75), (0.5, 2.5), (0.9, 3.7), (1.0, 4.0)])
def test_percentile_interpolates_linearly(share: float, expected: float) -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], share) == pytest.approx(expected)
    assert percentile([7.0], share) == 7.0


def test_distribution_of_a_known_sample() -> None:
    sample = Distribution.of([4.0, 2.0, 6.0, 8.0])
    assert (sample.mean, sample.min, sample.p50, sample.max) == (5.0, 2.0, 5.0, 8.0)
    assert sample.std == pytest.approx(math.sqrt(5))
    assert math.isnan(Distribution.of([]).p99)


def test_goodput_takes_vllms_syntax() -> None:
    assert parse_goodput(["ttft:500", "tpot:50.5"]) == {Latency.TTFT: 500.0, Latency.TPOT: 50.5}


@pytest.mark.parametrize("pair", ["ttft", "ttft:fast", "latency:5", ":5"])
def test_goodput_refuses_what_it_does_not_know(pair: str) -> None:
    with pytest.raises(StartupError, match="NAME:MS with NAME one of ttft, tpot, itl, e2el"):
        parse_goodput([pair])


@pytest.mark.parametrize(
    ("limits", "good"),
    [
        ({}, True),
        ({Latency.TTFT: 501.0}, True),
        ({Latency.TTFT: 499.0}, False),
        ({Latency.TTFT: 501.0, Latency.TPOT: 99.0}, False),
        ({Latency.ITL: 151.0}, True),  # the mean of 100 and 200
        ({Latency.ITL: 149.0}, False),
        ({Latency.E2EL: 901.0, Latency.TPOT: 101.0}, True),
        ({Latency.E2EL: 899.0}, False),
    ],
)
def test_a_request_is_good_if_it_keeps_all_limits(limits: dict[Latency, float], good: bool) -> None:
    assert is_good(make_trace(10.0, [10.5, 10.6, 10.8], 10.9, 5), limits) is good


def test_summary_counts_failures_apart() -> None:
    traces = [
        make_trace(0.0, [1.0, 2.0], 2.0, 11, cached_tokens=4),
        make_trace(0.0, [3.0, 4.0], 4.0, 11, cached_tokens=0),
        Trace(sent_s=0.0, prompt_tokens=99, output_tokens=99, error="HTTP 429: full"),
    ]
    summary = summarize(traces, 4.0, {Latency.TTFT: 2000.0})
    assert (summary.completed, summary.failed, summary.errors) == (2, 1, {"HTTP 429: full": 1})
    assert (summary.prompt_tokens, summary.output_tokens, summary.cached_tokens) == (20, 22, 4)
    assert summary.request_throughput == pytest.approx(0.5)
    assert summary.output_throughput == pytest.approx(5.5)
    assert summary.total_token_throughput == pytest.approx(10.5)
    assert summary.request_goodput == pytest.approx(0.25)
    assert summary.ttft_ms.p50 == pytest.approx(2000)
    assert summary.tpot_ms.mean == pytest.approx(100)


def test_summary_without_completed_requests_has_no_latencies() -> None:
    summary = summarize([Trace(sent_s=0.0, error="refused")], 1.0, {})
    assert math.isnan(summary.ttft_ms.mean)
    assert summary.request_goodput is None
    assert summary.cached_tokens is None
