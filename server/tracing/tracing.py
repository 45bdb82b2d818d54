"""Tracing: makes a trace of each request that is sampled, and sends it."""

import importlib.metadata
import logging
import os
import threading
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
from server.paths.monitoring import MONITORING
from server.paths.prefix import route_path
from server.tracing.clock import TraceClock
from server.tracing.request_trace import RequestTrace, Restart
from server.tracing.span_gate import SpanGate

_PROPAGATOR = TraceContextTextMapPropagator()
_MAX_RESTARTS = 16  # that are remembered; the server gives up far earlier
# OpenTelemetry's variables of these sizes, and its defaults.
_QUEUE_SIZE = ("OTEL_BSP_MAX_QUEUE_SIZE", 2048)
_BATCH_SIZE = ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)


class Tracing:
    """One server's pipeline. The sampler, the sizes of queue and batch, and the resource's attributes are what
    OpenTelemetry's variables say (OTEL_TRACES_SAMPLER, OTEL_BSP_*, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES)."""

    def __init__(self, exporter: SpanExporter, count_spans: Callable[[str, int], None]) -> None:
        """count_spans: called by any thread, with what became of how many spans.

        Raises ValueError for a variable that cannot be.
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
        """The trace of a request, as a part of its caller's if the headers name one; None for what monitoring asks for.

        method: as its label. arrival_s: by time.monotonic().
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
        return RequestTrace(self._tracer, span, clock, self._gate.enter, self._restarts)

    def note_restart(self, reason: RestartReason) -> None:
        """The engine process is started again now: it befalls every request that has not ended."""
        self._restarts.append(Restart.now(reason))

    def close(self, timeout_s: float) -> None:
        """Send what waits, for at most `timeout_s`; what a collector has not taken by then is lost."""
        closing = threading.Thread(target=self._provider.shutdown, name="close-tracing", daemon=True)
        closing.start()
        closing.join(timeout_s)


def _parent(headers: Headers) -> Context:
    """What W3C's headers say. Several traceparents are none."""
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
