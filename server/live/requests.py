"""LiveRequest: an open or finished request, as the dashboard shows it."""

import time
from typing import Protocol

import msgspec

from server.metrics.request_record import RequestRecord


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


class LiveRequest(msgspec.Struct, frozen=True):
    """State of an open or finished request."""

    id: str
    route: str
    state: str  # waiting, or running once there is output; the outcome of a finished request
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


def open_request(record: RequestRecord, progress: GenerationProgress) -> LiveRequest:
    return LiveRequest(
        id=record.request_id,
        route=record.route,
        state="waiting" if progress.queue_s is None else "running",
        began_ms=_unix_ms(record.arrival_s),
        seconds=time.monotonic() - record.arrival_s,
        prompt_tokens=progress.prompt_tokens,
        cached_tokens=progress.cached_tokens,
        output_tokens=progress.output_tokens,
        queue_s=progress.queue_s,
        first_token_s=progress.first_token_s,
    )


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
