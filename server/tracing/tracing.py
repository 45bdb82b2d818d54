"""Tracing: makes and sends a trace of each sampled request."""

import importlib.metadata
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable

from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers
from starlette.types import Scope

from engine.client.interface import RestartReason
from server.paths import MONITORING, route_path
from server.tracing.request_trace import RequestTrace, Restart, TraceClock
from server.tracing.span_gate import SpanGate

_PROPAGATOR = TraceContextTextMapPropagator()
_MAX_RESTARTS = 16  # that are kept; the server gives up far earlier
# OpenTelemetry's variables and defaults.
_QUEUE_SIZE = ("OTEL_BSP_MAX_QUEUE_SIZE", 2048)
_BATCH_SIZE = ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)


class Tracing:
    """The tracing pipeline of one server. OpenTelemetry's variables set the sampler, the sizes of queue and batch, and
    the resource's attributes (OTEL_TRACES_SAMPLER, OTEL_BSP_*, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES)."""

    def __init__(self, exporter: SpanExporter, count_spans: Callable[[str, int], None]) -> None:
        """count_spans: called from any thread, with an outcome and a number of spans.

        Raises ValueError for an invalid environment variable of OpenTelemetry.
        """
        logging.getLogger("opentelemetry.trace").setLevel(logging.ERROR)  # it would quote a client's wrong headers
        max_spans = _size(*_QUEUE_SIZE)
        batch_size = min(max_spans, _size(*_BATCH_SIZE))
        self._gate = SpanGate(exporter, max_spans, count_spans)
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(
            BatchSpanProcessor(self._gate, max_queue_size=max_spans, max_export_batch_size=batch_size)
        )
        self._tracer = self._provider.get_tracer("headrace", importlib.metadata.version("headrace"))
        self._restarts: deque[Restart] = deque(maxlen=_MAX_RESTARTS)

    def begin(self, scope: Scope, method: str, arrival_s: float) -> RequestTrace | None:
        """Start the trace of a request, as a part of its caller's trace if the headers name one. Return None for
        health checks and other monitoring.

        method: the value of the metrics' `method` label. arrival_s: by time.monotonic().
        """
        if route_path(scope) in MONITORING:
            return None
        clock = TraceClock()
        span = self._tracer.start_span(
            method,
            context=_parent(Headers(scope=scope)),
            kind=SpanKind.SERVER,
            start_time=clock.epoch_ns(arrival_s),
            attributes={"http.request.method": method},
        )
        return RequestTrace(self._tracer, span, clock, self._gate.admit, self._restarts)

    def note_restart(self, reason: RestartReason) -> None:
        """Note that the engine process is being restarted, which affects every request that has not ended."""
        self._restarts.append(Restart(time.monotonic(), reason))

    def close(self, timeout_s: float) -> None:
        """Send waiting spans, for at most `timeout_s`; spans that the collector has not accepted by then are lost."""
        closing = threading.Thread(target=self._provider.shutdown, name="close-tracing", daemon=True)
        closing.start()
        closing.join(timeout_s)


def _parent(headers: Headers) -> Context:
    """Return the caller's trace context from W3C's headers. Several traceparent headers count as none."""
    parents = headers.getlist("traceparent")
    if len(parents) != 1:
        return Context()
    carrier = {"traceparent": parents, "tracestate": headers.getlist("tracestate")}
    return _PROPAGATOR.extract(carrier, Context())


def _size(variable: str, default: int) -> int:
    text = os.environ.get(variable, "").strip() or str(default)
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"{variable} is {text!r}; it must be a whole number, at least 1")
    return int(text)


def _resource() -> Resource:
    ours = {SERVICE_NAME: "headrace", SERVICE_VERSION: importlib.metadata.version("headrace")}
    return Resource.create({**ours, **OTELResourceDetector().detect().attributes})
