"""LiveRequest: an open or finished request, as the dashboard shows it."""

import time
from typing import Protocol

import msgspec

from server.live.stories import SequenceStory
from server.metrics.request_record import RequestRecord

_PAUSES_S = 30.0  # how far back the dashboard draws them


class GenerationProgress(msgspec.Struct, frozen=True):
    """Token counts and latencies of a running generation, over all choices."""

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    queue_s: float | None  # from the arrival to the first step; None before the first output
    first_token_s: float | None  # from the arrival to the first token; None before it


class LiveGeneration(Protocol):
    """A generation that is running or waiting."""

    @property
    def record(self) -> RequestRecord | None: ...

    def progress(self) -> GenerationProgress: ...


class Pause(msgspec.Struct, frozen=True, array_like=True):
    """A pause of a line of a batch, in seconds since its request began. end_s: null while it lasts."""

    begin_s: float
    end_s: float | None


class LiveRequest(msgspec.Struct, frozen=True):
    """State of an open or finished request."""

    id: str
    route: str
    state: str  # waiting, running or paused; the outcome of a finished request
    began_ms: int  # Unix time
    seconds: float  # since began_ms; the duration of a finished request
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    queue_s: float | None = None
    first_token_s: float | None = None
    status: int | None = None  # HTTP status of the answer
    error: str | None = None  # error code
    finish: str | None = None  # why the choices ended
    again_s: float | None = None  # since began_ms: when it began to wait again, if an open request does
    pauses: list[Pause] = []  # the latest ones of an open line of a batch


def open_request(
    record: RequestRecord, progress: GenerationProgress, story: SequenceStory | None = None
) -> LiveRequest:
    """Return the state of an open request. story: of its first choice, which knows more than the output so far: the
    output of a line of a batch comes in groups of tokens."""
    queue_s, first_token_s = progress.queue_s, progress.first_token_s
    again_s: float | None = None
    pauses: list[tuple[float, float | None]] = []
    if story is not None:
        if queue_s is None and story.admitted_s is not None:
            queue_s = story.admitted_s - record.arrival_s
        if first_token_s is None and record.is_batch_line and story.prompt_end_s is not None:
            first_token_s = story.prompt_end_s - record.arrival_s
        again_s = None if story.waits_again_s is None else _since(record, story.waits_again_s)
        since_s = time.monotonic() - _PAUSES_S
        pauses = [(begin_s, end_s) for begin_s, end_s in story.pauses() if end_s is None or end_s > since_s]
    is_paused = bool(pauses) and pauses[-1][1] is None
    state = "waiting" if queue_s is None or again_s is not None else "paused" if is_paused else "running"
    return LiveRequest(
        id=record.request_id,
        route=record.route,
        state=state,
        began_ms=_unix_ms(record.arrival_s),
        seconds=time.monotonic() - record.arrival_s,
        prompt_tokens=progress.prompt_tokens,
        cached_tokens=progress.cached_tokens,
        output_tokens=progress.output_tokens,
        queue_s=queue_s,
        first_token_s=first_token_s,
        again_s=again_s,
        pauses=[
            Pause(_since(record, begin_s), None if end_s is None else _since(record, end_s))
            for begin_s, end_s in pauses
        ],
    )


def _since(record: RequestRecord, at_s: float) -> float:
    return round(at_s - record.arrival_s, 3)


def finished_request(record: RequestRecord) -> LiveRequest:
    return LiveRequest(
        id=record.request_id,
        route=record.route,
        state=record.outcome.value,
        began_ms=_unix_ms(record.arrival_s),
        seconds=time.monotonic() - record.arrival_s,
        prompt_tokens=record.prompt_tokens,
        cached_tokens=record.cached_tokens,
        output_tokens=record.output_tokens,
        queue_s=record.queue_s,
        first_token_s=record.first_token_s,
        status=record.error_status or record.status,
        error=record.error_code,
        finish=",".join(record.finish_reasons) or None,
    )


def _unix_ms(monotonic_s: float) -> int:
    return round((time.time() - time.monotonic() + monotonic_s) * 1000)
