"""RequestTrace: one request's spans, made from its record when it is over."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context

from engine.client.interface import RestartReason
from server.metrics.request_record import ChoiceTimes, Outcome, RequestRecord
from server.tracing.attributes import Attributes, request_attributes
from server.tracing.clock import TraceClock

_MAX_CHOICES = 8  # with spans of their own

_FAULTS = frozenset({Outcome.FAILED, Outcome.TIMEOUT})


@dataclass(frozen=True, slots=True)
class Restart:
    """A new start of the engine process."""

    at_s: float  # time.monotonic()
    reason: RestartReason

    @classmethod
    def now(cls, reason: RestartReason) -> Self:
        return cls(time.monotonic(), reason)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """A span of the request's: times by time.monotonic()."""

    name: str
    began_s: float
    ended_s: float
    attributes: Attributes


class RequestTrace:
    """The server's span, which is open from the request's arrival on, and below it one for each stretch."""

    def __init__(
        self,
        tracer: Tracer,
        span: Span,
        clock: TraceClock,
        enter: Callable[[int], bool],
        restarts: Sequence[Restart],
    ) -> None:
        """enter: whether there is room for that number of spans."""
        self._tracer = tracer
        self._span = span
        self._clock = clock
        self._enter = enter
        self._restarts = restarts

    @property
    def trace_id(self) -> str | None:
        """Of a trace that is recorded; None if it was not sampled."""
        if not self._span.is_recording():
            return None
        return f"{self._span.get_span_context().trace_id:032x}"

    @property
    def response_header(self) -> str | None:
        """W3C's traceresponse: how the caller finds this request's span. None if there is none."""
        context = self._span.get_span_context()
        if not context.is_valid:
            return None
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def finish(self, record: RequestRecord) -> None:
        """Hand over all spans, if the trace is recorded and there is room for them. The request is over."""
        if not self._span.is_recording():
            return
        stretches = list(_stretches(record))
        if not self._enter(1 + len(stretches)):
            return
        parent = set_span_in_context(self._span)
        for each in stretches:
            child = self._tracer.start_span(
                each.name,
                context=parent,
                kind=SpanKind.INTERNAL,
                attributes=each.attributes,
                start_time=self._clock.epoch_ns(each.began_s),
            )
            child.end(self._clock.epoch_ns(max(each.began_s, each.ended_s)))
        span = self._span
        span.update_name(f"{record.method} {record.route}" if record.route != "unmatched" else record.method)
        span.set_attributes(request_attributes(record))
        for name, at_s, attributes in self._events(record):
            span.add_event(name, attributes, self._clock.epoch_ns(at_s))
        if record.outcome in _FAULTS or record.status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end(self._clock.epoch_ns(record.arrival_s + record.http_s))

    def _events(self, record: RequestRecord) -> Iterator[tuple[str, float, Attributes]]:
        """What befell the request at a moment, in order."""
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


def _stretches(record: RequestRecord) -> Iterator[_Stretch]:
    if record.submitted_s is None:
        return
    yield _Stretch("prepare", record.arrival_s, record.submitted_s, {})
    for number, choice in enumerate(record.choices[:_MAX_CHOICES]):
        yield from _stretches_of(choice, record.submitted_s, _of_choice(record, number))


def _stretches_of(choice: ChoiceTimes, submitted_s: float, attributes: Attributes) -> Iterator[_Stretch]:
    """As far as the choice came."""
    ended_s = choice.ended_s
    if ended_s is None:
        return
    scheduled_s, first_token_s = choice.scheduled_s, choice.first_token_s
    yield _Stretch("queue", submitted_s, ended_s if scheduled_s is None else scheduled_s, attributes)
    if scheduled_s is not None:
        yield _Stretch("prefill", scheduled_s, ended_s if first_token_s is None else first_token_s, attributes)
    if first_token_s is not None:
        yield _Stretch("decode", first_token_s, ended_s, attributes)


def _of_choice(record: RequestRecord, number: int) -> Attributes:
    return {"headrace.choice": number} if record.num_choices > 1 else {}
