"""RequestTrace: the spans of one request, created from its RequestRecord when the request has ended."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context

from engine.client.interface import RestartReason
from server.metrics.request_record import ChoiceTimes, RequestOutcome, RequestRecord
from server.tracing.attributes import Attributes, request_attributes

_MAX_CHOICES = 8  # that have spans

_FAULTS = frozenset({RequestOutcome.FAILED, RequestOutcome.TIMEOUT})


class TraceClock:
    """A converter from monotonic to wall-clock time. It reads both clocks once, when it is created, so that a change
    of the wall clock never reorders a trace. The engine and the server share one monotonic clock."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def epoch_ns(self, monotonic_s: float) -> int:
        """Return nanoseconds since 1970. monotonic_s: by time.monotonic()."""
        return self._offset_ns + round(monotonic_s * 1e9)


@dataclass(frozen=True, slots=True)
class Restart:
    """A restart of the engine process."""

    at_s: float  # time.monotonic()
    reason: RestartReason


@dataclass(frozen=True, slots=True)
class _Phase:
    """A phase of a request, such as prefill, which becomes a span. Times are by time.monotonic()."""

    name: str
    started_s: float
    ended_s: float
    attributes: Attributes


class RequestTrace:
    """The spans of one request: the server's span, open from its arrival on, and a child span for each phase."""

    def __init__(
        self,
        tracer: Tracer,
        span: Span,
        clock: TraceClock,
        admit: Callable[[int], bool],
        restarts: Sequence[Restart],
    ) -> None:
        """admit: reserves room in the export queue for a number of spans, or returns False; see SpanGate."""
        self._tracer = tracer
        self._span = span
        self._clock = clock
        self._admit = admit
        self._restarts = restarts

    @property
    def trace_id(self) -> str | None:
        """Id of the trace; None if it was not sampled."""
        if not self._span.is_recording():
            return None
        return f"{self._span.get_span_context().trace_id:032x}"

    @property
    def response_header(self) -> str | None:
        """Value of the W3C traceresponse header, which identifies the span to the caller; None without a valid span."""
        context = self._span.get_span_context()
        if not context.is_valid:
            return None
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def finish(self, record: RequestRecord) -> None:
        """Queue the finished request's spans for export; drop them if the trace is not sampled or the queue is full."""
        if not self._span.is_recording():
            return
        phases = list(_phases(record))
        if not self._admit(1 + len(phases)):
            return
        parent = set_span_in_context(self._span)
        for each in phases:
            child = self._tracer.start_span(
                each.name,
                context=parent,
                kind=SpanKind.INTERNAL,
                attributes=each.attributes,
                start_time=self._clock.epoch_ns(each.started_s),
            )
            child.end(self._clock.epoch_ns(max(each.started_s, each.ended_s)))
        span = self._span
        span.update_name(f"{record.method} {record.route}" if record.route != "unmatched" else record.method)
        span.set_attributes(request_attributes(record))
        for name, at_s, attributes in self._events(record):
            span.add_event(name, attributes, self._clock.epoch_ns(at_s))
        if record.outcome in _FAULTS or record.status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end(self._clock.epoch_ns(record.arrival_s + record.http_s))

    def _events(self, record: RequestRecord) -> Iterator[tuple[str, float, Attributes]]:
        """Return the events of the request, in order."""
        events: list[tuple[str, float, Attributes]] = []
        if record.first_token_s is not None:
            events.append(("first_token", record.arrival_s + record.first_token_s, {}))
        for number, choice in enumerate(record.choices):
            events += [("preemption", at_s, _of_choice(record, number)) for at_s in choice.preempted_s]
        if record.submitted_s is not None:
            events += [
                ("engine_restart", each.at_s, {"headrace.reason": each.reason.value})
                for each in self._restarts
                if each.at_s >= record.submitted_s
            ]
        yield from sorted(events, key=lambda event: event[1])


def _phases(record: RequestRecord) -> Iterator[_Phase]:
    if record.submitted_s is None:
        return
    yield _Phase("prepare", record.arrival_s, record.submitted_s, {})
    for number, choice in enumerate(record.choices[:_MAX_CHOICES]):
        yield from _phases_of(choice, record.submitted_s, _of_choice(record, number))


def _phases_of(choice: ChoiceTimes, submitted_s: float, attributes: Attributes) -> Iterator[_Phase]:
    """Yield the phases that the choice reached: queue, prefill and decode."""
    ended_s = choice.ended_s
    if ended_s is None:
        return
    scheduled_s, first_token_s = choice.scheduled_s, choice.first_token_s
    yield _Phase("queue", submitted_s, ended_s if scheduled_s is None else scheduled_s, attributes)
    if scheduled_s is not None:
        yield _Phase("prefill", scheduled_s, ended_s if first_token_s is None else first_token_s, attributes)
    if first_token_s is not None:
        yield _Phase("decode", first_token_s, ended_s, attributes)


def _of_choice(record: RequestRecord, number: int) -> Attributes:
    return {"headrace.choice": number} if record.num_choices > 1 else {}
