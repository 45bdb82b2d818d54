"""RequestTable: the open requests, and the last finished ones."""

import heapq
import time
from collections import deque
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import msgspec

from engine.client.interface import EngineClient, EngineEnd
from engine.protocol import StepStats
from server.errors import RequestNotKnown
from server.live.answer_means import AnswerMeans
from server.live.request_stories import RequestStory, SequenceStories, followed_sequences, story_without_choices
from server.live.requests import LiveGeneration, LiveRequest, finished_request, open_request
from server.metrics.request_record import RequestOutcome, RequestRecord
from server.schemas.base import quote

MAX_OPEN_SHOWN = 64
NUM_RECENT = 200  # generations
NUM_RECENT_REFUSED = 100  # requests refused before a generation
_WAITING = "waiting"  # a LiveRequest.state
_FIRST_TOKEN_S = 60.0  # for which the first token of an open answer counts
_MIN_TOKENS = 8  # of an open answer, before its time between tokens counts


class _KnownRequest(NamedTuple):
    """A request, without the histories of its choices. Times are by time.monotonic()."""

    story: RequestStory
    arrival_s: float
    ended_s: float  # the current time while the request is open
    sequence_ids: list[str]


class RequestTable:
    """The open generations, and the last finished requests. Refused requests are kept apart: they cost a client
    nothing, and could displace all other requests."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._open: dict[int, LiveGeneration] = {}
        self._ended: deque[_KnownRequest] = deque()  # newest first
        self._refused: deque[_KnownRequest] = deque()
        self._stories = SequenceStories()
        self.answers = AnswerMeans()

    def begin(self, generation: LiveGeneration) -> None:
        """Add a generation whose sequences have been submitted to the engine."""
        self._open[id(generation)] = generation
        if (record := generation.record) is not None:
            record.prefill_token_s = self._client.info.prefill_seconds_per_token
            self._stories.follow(record)

    def end(self, generation: LiveGeneration) -> None:
        self._open.pop(id(generation), None)

    def on_over(self, record: RequestRecord) -> None:
        """Keep a finished request, if it started a generation or was refused."""
        if record.has_started:
            self.answers.add(record)
            self._keep(self._ended, NUM_RECENT, record)
        elif record.num_choices or record.num_inputs or record.error_code is not None:
            self._keep(self._refused, NUM_RECENT_REFUSED, record)

    def discard(self, record: RequestRecord) -> None:
        """Forget a finished request that must not be listed, such as a line of a batch, which would displace others."""
        self._stories.forget(record.sequence_ids)

    def _keep(self, kept: deque[_KnownRequest], max_kept: int, record: RequestRecord) -> None:
        kept.appendleft(_known(record, finished_request(record)))
        if len(kept) > max_kept:
            self._stories.forget(kept.pop().sequence_ids)

    def on_step(self, stats: StepStats) -> None:
        if stats.events:
            self._stories.add_step(stats)

    def engine_ended(self, end: EngineEnd) -> None:
        """Record in the histories of the open requests that the engine process ended, which some requests survive."""
        records = [record for live in self._open.values() if (record := live.record) is not None]
        self._stories.engine_ended(time.monotonic(), end, chain.from_iterable(each.sequence_ids for each in records))

    def find(self, name: str) -> RequestStory | None:
        """Return the story of the newest request with this request id or response id."""
        newest = max(self._with_id(name), key=lambda known: known.arrival_s, default=None)
        if newest is None:
            return None
        choices = self._stories.choices(newest.sequence_ids, newest.arrival_s)
        return msgspec.structs.replace(newest.story, choices=choices)

    def _with_id(self, name: str) -> Iterator[_KnownRequest]:
        for live in self._open.values():
            record = live.record
            if record is not None and name in (record.request_id, record.response_id):
                yield _known(record, self._open_request(record, live))
        for kept in chain(self._ended, self._refused):
            if name in (kept.story.request.id, kept.story.response_id):
                yield kept

    def open(self) -> list[LiveRequest]:
        """Return the oldest open requests, at most MAX_OPEN_SHOWN: clients' first, then lines of batches, without those
        that wait."""
        of_clients: list[LiveRequest] = []
        lines: list[LiveRequest] = []
        for live in self._open.values():
            if (record := live.record) is None:
                continue
            if len(of_clients) == MAX_OPEN_SHOWN:
                break
            if not record.is_batch_line:
                of_clients.append(self._open_request(record, live))
            elif len(lines) < MAX_OPEN_SHOWN and (line := self._open_request(record, live)).state != _WAITING:
                lines.append(line)
        return [*of_clients, *lines][:MAX_OPEN_SHOWN]

    def _open_request(self, record: RequestRecord, live: LiveGeneration) -> LiveRequest:
        return open_request(record, live.progress(), self._stories.find(record.sequence_ids))

    @property
    def num_open(self) -> int:
        return len(self._open)

    def recent(self) -> list[LiveRequest]:
        """Return the finished requests, newest first."""
        merged = heapq.merge(self._ended, self._refused, key=lambda kept: kept.ended_s, reverse=True)
        return [kept.story.request for kept in merged]

    def latencies(self, now_ms: float, window_s: float = 300.0) -> "Latencies":
        """Return the latencies of the requests that ended within the window, without those that got nothing."""
        ended = [
            each
            for each in self.recent()
            if now_ms - each.began_ms - each.seconds * 1000 < window_s * 1000
            and (each.first_token_s is not None or each.state == RequestOutcome.COMPLETED)
        ]
        firsts = [each.first_token_s for each in ended if each.first_token_s is not None]
        gaps = [
            (each.seconds - each.first_token_s) / (each.output_tokens - 1)
            for each in ended
            if each.first_token_s is not None and each.output_tokens > 1
        ]
        wholes = [each.seconds for each in ended]
        return Latencies(len(ended), _percentiles(firsts), _percentiles(gaps), _percentiles(wholes))

    @property
    def num_open_lines(self) -> int:
        """Number of open generations that are lines of batches."""
        return sum((record := live.record) is not None and record.is_batch_line for live in self._open.values())

    def open_records(self) -> Iterator[RequestRecord]:
        """Yield the records of the open generations."""
        return (record for live in self._open.values() if (record := live.record) is not None)

    def open_latencies(self) -> "Latencies":
        """Return the latencies so far of clients' open requests. One without a token counts with its wait for it; a
        first token that came long ago says nothing about waits now."""
        running = [
            (time.monotonic() - record.arrival_s, live.progress())
            for live in self._open.values()
            if (record := live.record) is not None and not record.is_batch_line
        ]
        firsts = [
            lasted_s if each.first_token_s is None else each.first_token_s
            for lasted_s, each in running
            if each.first_token_s is None or lasted_s - each.first_token_s <= _FIRST_TOKEN_S
        ]
        gaps = [
            (lasted_s - each.first_token_s) / (each.output_tokens - 1)
            for lasted_s, each in running
            if each.first_token_s is not None and each.output_tokens >= _MIN_TOKENS
        ]
        wholes = [lasted_s for lasted_s, _ in running]
        return Latencies(len(running), _percentiles(firsts), _percentiles(gaps), _percentiles(wholes))


def _known(record: RequestRecord, request: LiveRequest) -> _KnownRequest:
    story = story_without_choices(record, request)
    return _KnownRequest(story, record.arrival_s, time.monotonic(), followed_sequences(record))


def request_not_known(name: str) -> RequestNotKnown:
    """Return the error for an id that no table of requests has."""
    return RequestNotKnown(
        f"no request with the id {quote(name)} is open, among the last {NUM_RECENT} with an answer, or the "
        f"last {NUM_RECENT_REFUSED} that were refused; its id is in its answer's header x-request-id, or in the "
        "answer itself"
    )


class Latencies(msgspec.Struct, frozen=True):
    """Latencies in seconds at the 50th, 90th and 99th percentile; empty lists without requests. whole_s: of requests
    from beginning to end."""

    num_requests: int
    first_token_s: list[float]
    per_token_s: list[float]
    whole_s: list[float]


def _percentiles(values: list[float]) -> list[float]:
    ordered = sorted(values)
    return [ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.5, 0.9, 0.99) if ordered]
