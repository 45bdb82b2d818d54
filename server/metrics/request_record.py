"""RequestRecord: the facts about one request that are logged and counted when it is over."""

import enum
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

from engine.errors import ShedReason
from engine.protocol import FinishReason, SamplingParams

CLIENT_GONE = 499  # nginx's status; it is never sent

_UNAVAILABLE = 503
_STREAM_DELETED = "stream_deleted"  # error code of a stream that its client has deleted


class RequestOutcome(enum.StrEnum):
    """How a request ended."""

    COMPLETED = "completed"
    TIMEOUT = "timeout"  # its time limit was reached, perhaps within the answer
    REFUSED = "refused"  # before any work
    FAILED = "failed"  # by the server's fault
    ABORTED = "aborted"  # its client disconnected, or deleted its stream


@dataclass(slots=True)
class ChoiceTimes:
    """Times at which each phase of a choice ended, by time.monotonic(); None if the phase did not end."""

    scheduled_s: float | None = None
    first_token_s: float | None = None
    ended_s: float | None = None
    preempted_s: list[float] = field(default_factory=list)


class RequestRecord:
    """The facts about one request, collected while it is processed. The request is over when the HTTP exchange and
    every generation that called `hold` have called `release`: a background response outlives its exchange."""

    def __init__(
        self,
        request_id: str,
        method: str,
        on_over: Callable[["RequestRecord"], None],
        model_name: str | None = None,
    ) -> None:
        """Start with one hold, the creator's. method: label in the metrics. model_name: the server's only model."""
        self.request_id = request_id
        self.method = method
        self.model_name = model_name  # None until the request's model is known
        self.arrival_s = time.monotonic()
        self.client: str | None = None  # its address; None over a Unix socket
        self.client_subject: str | None = None  # of the client's certificate
        self.route = "unmatched"
        self.status = CLIENT_GONE
        self.request_bytes = 0
        self.response_bytes = 0
        self.http_s = 0.0  # from the request's head to the end of the answer
        self.key_name: str | None = None
        self.has_key = False  # whether a key was sent, valid or not
        self.is_batch_line = False  # or a body that a fine-tuning job's grader asks for
        self.is_usage = False  # whether it counts in the usage of its key
        self.trace_id: str | None = None  # of a sampled trace
        self.span_operation = "chat"  # gen_ai.operation.name of its span
        self.is_stream = False
        self.error_code: str | None = None
        self.error_status = 0
        self.shed_reason: ShedReason | None = None  # why it was refused before it ran
        # Of the generation, if there was one:
        self.has_started = False
        self.num_choices = 0
        self.num_inputs = 0  # for a pooling model
        self.prompt_tokens = 0
        self.counted_prompt_tokens = 0  # in usage: of prompts with an output or an end
        self.cached_tokens = 0
        self.prefill_token_s = 0.0  # of the engine, as measured at the warm-up; 0 is unknown
        self.output_tokens = 0
        self.queue_s: float | None = None  # from the arrival to the first step
        self.first_token_s: float | None = None  # from the arrival
        self.finish_reasons: list[str] = []  # of the choices, each once
        self.response_id: str | None = None
        self.sequence_ids: list[str] = []  # the engine's ids of the choices; empty for a beam search
        # If the request is traced:
        self.sampling: SamplingParams | None = None
        self.submitted_s: float | None = None  # to the engine, by time.monotonic()
        self.choices: list[ChoiceTimes] = []
        self.choice_ends: list[str] = []  # finish reasons, one per choice
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

    def on_end(self, action: Callable[[], None]) -> None:
        """Register an action to call when the request is over."""
        self._at_end.append(action)

    def note_error(self, status: int, code: str, shed_reason: ShedReason | None = None) -> None:
        """Record the error that was reported to the client, in whatever format."""
        self.error_status, self.error_code, self.shed_reason = status, code, shed_reason

    def note_submitted(self, sampling: SamplingParams) -> None:
        """Record that the generation is submitted to the engine now."""
        self.sampling, self.submitted_s = sampling, time.monotonic()

    def note_ends(self, reasons: Sequence[FinishReason]) -> None:
        """Record the finish reasons of the choices."""
        self.choice_ends = [reason.value for reason in reasons]
        self.finish_reasons = sorted(set(self.choice_ends))

    @property
    def was_not_taken(self) -> bool:
        """Whether the request was refused for lack of capacity or an engine, before any of it was computed."""
        return self.shed_reason is not None or (self.error_status == _UNAVAILABLE and not self.has_started)

    @property
    def outcome(self) -> RequestOutcome:
        if self.shed_reason is not None:
            return RequestOutcome.REFUSED
        if FinishReason.TIMEOUT in self.finish_reasons or self.error_code == "timeout":
            return RequestOutcome.TIMEOUT
        if self.error_code == _STREAM_DELETED:  # by DELETE /v1/streams/ID, as the chat page's Stop does
            return RequestOutcome.ABORTED
        status = self.error_status or self.status
        if status == CLIENT_GONE:
            has_ended = self.has_started and FinishReason.ABORT not in self.finish_reasons
            return RequestOutcome.COMPLETED if has_ended else RequestOutcome.ABORTED
        if status < 400:
            return RequestOutcome.ABORTED if FinishReason.ABORT in self.finish_reasons else RequestOutcome.COMPLETED
        is_refusal = status < 500 or (status == _UNAVAILABLE and not self.has_started)
        return RequestOutcome.REFUSED if is_refusal else RequestOutcome.FAILED


_current: ContextVar[RequestRecord | None] = ContextVar("request_record", default=None)


def current_record() -> RequestRecord | None:
    """Return the record of the request that this task works for; None outside of requests."""
    return _current.get()


def note_response_id(response_id: str) -> None:
    """Set the id of the response in the current request's record."""
    if (record := _current.get()) is not None:
        record.response_id = response_id


def set_current_record(record: RequestRecord) -> None:
    """Set the record for this task and the tasks that it starts."""
    _current.set(record)
