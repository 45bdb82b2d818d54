"""RequestRecord: what is told of one request when it is over, in the log and in metrics."""

import enum
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

from engine.errors import ShedReason
from engine.protocol import FinishReason

CLIENT_GONE = 499  # nginx's status for it; nobody receives it

_UNAVAILABLE = 503


class Outcome(enum.StrEnum):
    """What became of a request."""

    COMPLETED = "completed"
    TIMEOUT = "timeout"  # its time was over; it may have got a part of its answer
    REFUSED = "refused"  # nothing was begun
    FAILED = "failed"  # begun, and ended by the server's fault
    ABORTED = "aborted"  # its client went away


@dataclass(frozen=True, slots=True)
class Asked:
    """What a generation's request asks of every choice."""

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int  # 0 is off
    frequency_penalty: float
    presence_penalty: float
    seed: int | None


@dataclass(slots=True)
class ChoiceTimes:
    """When a choice's stretches ended, by time.monotonic(): the engine's word where it has said so. None for what it
    did not come to."""

    scheduled_s: float | None = None
    first_token_s: float | None = None
    ended_s: float | None = None
    preempted_s: list[float] = field(default_factory=list)


class RequestRecord:
    """Filled in on a request's way. It is over when the HTTP exchange and every generation that `hold` it have let go:
    a background response outlives the exchange that began it."""

    def __init__(
        self,
        request_id: str,
        method: str,
        on_over: Callable[["RequestRecord"], None],
        model_name: str | None = None,
    ) -> None:
        """method: as its label. model_name: where no request can be for another one. Whoever makes the record holds
        it."""
        self.request_id = request_id
        self.method = method
        self.model_name = model_name  # None until it is known which model is asked
        self.arrival_s = time.monotonic()
        self.client: str | None = None  # its address; None through a Unix socket
        self.client_subject: str | None = None  # of its certificate
        self.route = "unmatched"
        self.status = CLIENT_GONE
        self.request_bytes = 0
        self.response_bytes = 0
        self.http_s = 0.0  # from its head to the end of its answer
        self.key_name: str | None = None
        self.is_usage = False  # it counts as a request of its key, or of those without one
        self.trace_id: str | None = None  # of a trace that is recorded
        self.span_operation = "chat"  # gen_ai.operation.name of that trace
        self.is_stream = False
        self.error_code: str | None = None
        self.error_status = 0
        self.shed_reason: ShedReason | None = None  # why it was given up on before it ran
        # Of its generation, if there was one:
        self.has_begun = False
        self.num_choices = 0
        self.num_inputs = 0  # for a pooling model
        self.prompt_tokens = 0
        self.counted_prompt_tokens = 0  # of them, those that a usage counts: of prompts that had an output or an end
        self.cached_tokens = 0
        self.prefill_token_s = 0.0  # of its engine, as measured at the warm-up; 0 is unknown
        self.output_tokens = 0
        self.queue_s: float | None = None  # from the arrival to the first step
        self.first_token_s: float | None = None  # from the arrival
        self.finish_reasons: list[str] = []  # of its choices, each once
        self.response_id: str | None = None
        self.sequence_ids: list[str] = []  # by which the engine knows its choices; none of a beam search
        # Of a traced one:
        self.asked: Asked | None = None
        self.submitted_s: float | None = None  # to the engine, by time.monotonic()
        self.choices: list[ChoiceTimes] = []
        self.choice_ends: list[str] = []  # a finish reason each
        self._num_holders = 1
        self._on_over = on_over
        self._at_end: list[Callable[[], None]] = []

    def hold(self) -> None:
        self._num_holders += 1

    def release(self) -> None:
        self._num_holders -= 1
        if self._num_holders == 0:
            for action in self._at_end:
                action()
            self._on_over(self)

    def at_end(self, action: Callable[[], None]) -> None:
        """Have it called when the request is over."""
        self._at_end.append(action)

    def note_error(self, status: int, code: str, shed_reason: ShedReason | None = None) -> None:
        """An error that was told to the client, in whatever form."""
        self.error_status, self.error_code, self.shed_reason = status, code, shed_reason

    def note_asked(self, asked: Asked) -> None:
        """What a generation asks for that goes to the engine now."""
        self.asked, self.submitted_s = asked, time.monotonic()

    def note_ends(self, reasons: Sequence[FinishReason]) -> None:
        """How its choices ended."""
        self.choice_ends = [reason.value for reason in reasons]
        self.finish_reasons = sorted(set(self.choice_ends))

    @property
    def is_not_taken(self) -> bool:
        """Whether the server had no room for it, or no engine, before anything of it was computed."""
        return self.shed_reason is not None or (self.error_status == _UNAVAILABLE and not self.has_begun)

    @property
    def outcome(self) -> Outcome:
        if self.shed_reason is not None:
            return Outcome.REFUSED
        if FinishReason.TIMEOUT in self.finish_reasons or self.error_code == "timeout":
            return Outcome.TIMEOUT
        status = self.error_status or self.status
        if status == CLIENT_GONE:
            has_ended = self.has_begun and FinishReason.ABORT not in self.finish_reasons
            return Outcome.COMPLETED if has_ended else Outcome.ABORTED
        if status < 400:
            return Outcome.ABORTED if FinishReason.ABORT in self.finish_reasons else Outcome.COMPLETED
        is_refusal = status < 500 or (status == _UNAVAILABLE and not self.has_begun)
        return Outcome.REFUSED if is_refusal else Outcome.FAILED


_current: ContextVar[RequestRecord | None] = ContextVar("request_record", default=None)


def current_record() -> RequestRecord | None:
    """Of the request that this task, or the one that began it, works for; None outside of requests."""
    return _current.get()


def note_response_id(response_id: str) -> None:
    """By which the answer calls itself."""
    if (record := _current.get()) is not None:
        record.response_id = response_id


def set_current_record(record: RequestRecord) -> None:
    """For this task and those that it begins."""
    _current.set(record)
