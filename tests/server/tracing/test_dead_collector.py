"""A collector that is gone, slow or full costs the traces, and requests nothing."""

import logging
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra 'otel' is not installed")

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from engine.errors import OptionError
from server.tracing.span_gate import DROPPED, EXPORTED, FAILED, SpanGate
from server.tracing.start import start_tracing
from tests.helpers.deadline import DEADLINE_S, wait_until
from tests.helpers.fake_client import FakeClient, http, make_app, says
from tests.helpers.otlp_receiver import OtlpReceiver
from tests.helpers.threads import NewThreads

pytestmark = pytest.mark.fast

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
SPANS_A_REQUEST = 5


@pytest.fixture(autouse=True)
def _no_threads_left() -> Iterator[None]:
    yield
    for thread in threading.enumerate():
        if thread.name.startswith(("close-tracing", "OtelBatch")):
            thread.join(DEADLINE_S)


def _closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def _send(url: str, num_requests: int, close_s: float) -> tuple[Counter[str], list[int]]:
    """Return the number of spans by outcome, and the statuses of the answers."""
    counts: Counter[str] = Counter()
    app = make_app(FakeClient(says("hi")))
    tracing = start_tracing(url, lambda outcome, count: counts.update({outcome: count}))
    assert tracing is not None
    app.state.context.tracing = tracing
    async with http(app) as api:
        statuses = [(await api.post("/v1/chat/completions", json=CHAT)).status_code for _ in range(num_requests)]
    tracing.close(close_s)
    return counts, statuses


async def test_a_collector_that_does_not_answer_costs_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "23")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", str(DEADLINE_S))
    new_threads = NewThreads()
    with OtlpReceiver(is_stuck=True) as receiver:
        counts, statuses = await _send(receiver.url, 30, 0.2)
        assert new_threads.names("close-tracing")  # it was not waited for
        assert statuses == [200] * 30
        assert counts == {DROPPED: 26 * SPANS_A_REQUEST}  # there is room for four whole traces
        receiver.answer()
        wait_until(lambda: not new_threads.names("close-tracing", "OtelBatch"), "they end")


async def test_a_collector_that_is_gone_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0.01")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "5")
    caplog.set_level(logging.INFO)
    counts, statuses = await _send(f"http://127.0.0.1:{_closed_port()}", 10, DEADLINE_S)
    assert statuses == [200] * 10
    assert counts == {FAILED: 10 * SPANS_A_REQUEST}
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].startswith("the collector does not accept traces, which are lost: ")


async def test_a_short_queue_needs_no_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "100")  # below the default size of a batch
    with OtlpReceiver() as receiver:
        counts, _ = await _send(receiver.url, 1, DEADLINE_S)
        assert counts == {EXPORTED: SPANS_A_REQUEST}


@pytest.mark.parametrize(
    ("variable", "value"),
    [("OTEL_BSP_MAX_QUEUE_SIZE", "many"), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "0"), ("OTEL_BSP_SCHEDULE_DELAY", "-1")],
)
def test_an_invalid_variable_is_reported(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(OptionError, match="variable of OpenTelemetry is invalid"):
        start_tracing("http://127.0.0.1:4318", lambda *_: None)


async def test_what_waits_is_sent_at_the_end() -> None:
    with OtlpReceiver() as receiver:
        counts, _ = await _send(receiver.url, 20, DEADLINE_S)
        assert counts == {EXPORTED: 20 * SPANS_A_REQUEST}
        assert len(receiver.spans) == 20 * SPANS_A_REQUEST


class _Exporter(SpanExporter):
    def __init__(self) -> None:
        self.result = SpanExportResult.SUCCESS

    def export(self, spans: Any) -> SpanExportResult:  # noqa: ARG002
        if self.result is SpanExportResult.FAILURE:
            logging.getLogger("opentelemetry.exporter.any").warning("no route")
            logging.getLogger("opentelemetry.exporter.any").error("given up")
        return self.result


def test_traces_pass_whole_or_not_at_all() -> None:
    counts: Counter[str] = Counter()
    gate = SpanGate(_Exporter(), 10, lambda outcome, count: counts.update({outcome: count}))
    assert [gate.admit(num_spans) for num_spans in (4, 4, 3, 2, 1)] == [True, True, False, True, False]
    spans: Any = [None] * 4
    gate.export(spans)
    assert [gate.admit(num_spans) for num_spans in (5, 4)] == [False, True]
    assert counts == {EXPORTED: 4, DROPPED: 3 + 1 + 5}


def test_the_collector_s_return_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    exporter = _Exporter()
    gate = SpanGate(exporter, 10, lambda *_: None)
    for result in (SpanExportResult.SUCCESS, *[SpanExportResult.FAILURE] * 3, *[SpanExportResult.SUCCESS] * 2):
        exporter.result = result
        gate.export([])
    assert [record.getMessage() for record in caplog.records] == [
        "the collector does not accept traces, which are lost: no route",
        "the collector accepts traces again",
    ]
