"""Requests as a watcher sees them: those that are open, and the last ones that ended."""

import time
from collections import deque
from typing import Protocol

import msgspec

from server.metrics.request_record import RequestRecord

MAX_OPEN_SHOWN = 64
NUM_RECENT = 200


class Progress(msgspec.Struct, frozen=True):
    """How far a generation has come, all its choices together."""

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    queue_s: float | None  # from the arrival to the first step; None as long as no output has come
    first_token_s: float | None  # from the arrival


class Live(Protocol):
    """A generation that runs or waits."""

    @property
    def record(self) -> RequestRecord | None: ...

    def progress(self) -> Progress: ...


class LiveRequest(msgspec.Struct, frozen=True):
    """One request."""

    id: str
    route: str
    state: str  # waiting, or running once there is output; its outcome when it is over
    began_ms: int  # Unix time
    seconds: float  # since then, or what it took
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    queue_s: float | None = None
    first_token_s: float | None = None
    status: int | None = None  # of its answer, when it is over
    error: str | None = None  # its code
    finish: str | None = None  # why its choices ended


class RequestTable:
    """Open generations, and finished requests up to NUM_RECENT."""

    def __init__(self) -> None:
        self._open: dict[int, Live] = {}
        self._recent: deque[LiveRequest] = deque(maxlen=NUM_RECENT)

    def begin(self, generation: Live) -> None:
        self._open[id(generation)] = generation

    def end(self, generation: Live) -> None:
        self._open.pop(id(generation), None)

    def over(self, record: RequestRecord) -> None:
        """Keep what is told of a request that is over, if it was to generate or was refused."""
        if record.num_choices or record.error_code is not None:
            self._recent.appendleft(_finished(record))

    def open(self) -> list[LiveRequest]:
        """The oldest MAX_OPEN_SHOWN."""
        shown: list[LiveRequest] = []
        for live in self._open.values():
            if len(shown) == MAX_OPEN_SHOWN:
                break
            if (record := live.record) is not None:
                shown.append(_opened(record, live.progress()))
        return shown

    @property
    def num_open(self) -> int:
        return len(self._open)

    def recent(self) -> list[LiveRequest]:
        """Newest first."""
        return list(self._recent)

    def latencies(self, now_ms: float, window_s: float = 300.0) -> "Latencies":
        """Of the requests that ended within the window."""
        ended = [each for each in self._recent if now_ms - each.began_ms - each.seconds * 1000 < window_s * 1000]
        firsts = [each.first_token_s for each in ended if each.first_token_s is not None]
        gaps = [
            (each.seconds - each.first_token_s) / (each.output_tokens - 1)
            for each in ended
            if each.first_token_s is not None and each.output_tokens > 1
        ]
        return Latencies(len(ended), _percentiles(firsts), _percentiles(gaps))


class Latencies(msgspec.Struct, frozen=True):
    """Seconds at the 50th, 90th and 99th percentile; empty without a request."""

    num_requests: int
    first_token_s: list[float]
    per_token_s: list[float]


def _percentiles(values: list[float]) -> list[float]:
    ordered = sorted(values)
    return [ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.5, 0.9, 0.99) if ordered]


def _opened(record: RequestRecord, progress: Progress) -> LiveRequest:
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


def _finished(record: RequestRecord) -> LiveRequest:
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
