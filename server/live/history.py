"""History: what all models did in the last hour and day, by key, in bounded memory; and what happened to the server."""

import time
from collections import deque
from collections.abc import Callable

import msgspec

from engine.client.interface import EngineEnd
from engine.protocol import StepStats
from server.live.machine import MachineFigures
from server.metrics.request_record import RequestOutcome, RequestRecord

MINUTE_S, TEN_MINUTES_S = 60, 600
NUM_MINUTES, NUM_TEN_MINUTES = 60, 144  # an hour, and a day
MAX_KEYS = 50  # in a bucket; further ones are counted together
OTHER_KEYS = "other keys"
NO_KEY = "without a valid key"
_MAX_HAPPENINGS = 200
_MAX_FAILURES = 100
_UNAUTHORIZED = 401
_FAULTS = (RequestOutcome.FAILED, RequestOutcome.TIMEOUT)


class KeyUse(msgspec.Struct):
    """Use of one key, by its clients' requests or by lines of its batches. refused: those that were refused, failed or
    timed out."""

    requests: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0


class Bucket(msgspec.Struct, kw_only=True):
    """Activity of all models within a stretch of time.

    read_tokens, written_tokens: computed by the engines, lines of batches included. requests, refused, failed:
    POSTs of clients, and requests with an invalid key. most_running, most_waiting: the highest numbers of clients'
    requests in one engine. keys: use by clients' requests. batches: use by lines of batches, and by what fine-tuning
    jobs ask models. cpu_busy, memory_used: highest shares that were sampled; null without a sample.
    """

    start_s: int
    read_tokens: int = 0
    written_tokens: int = 0
    requests: int = 0
    refused: int = 0
    failed: int = 0
    most_running: int = 0
    most_waiting: int = 0
    cpu_busy: float | None = None
    memory_used: float | None = None
    keys: dict[str, KeyUse] = {}
    batches: dict[str, KeyUse] = {}


class Failure(msgspec.Struct, frozen=True):
    """A client's request that was refused or failed. at_s: its end. status: of the answer. error: code."""

    at_s: float
    id: str
    route: str
    model: str | None
    key: str
    status: int
    error: str


class Happening(msgspec.Struct, frozen=True):
    """An event in the server's life. kind: "started", "stopped", "killed" (at about that time), "engine_ended" or
    "gave_up" (the server ends because its engine did). detail: the reason. The other fields are those of the engine's
    end; cause is empty if an older server stored it."""

    at_s: float
    kind: str
    model: str | None = None
    detail: str = ""
    cause: str = ""
    num_continued: int = 0
    num_failed: int = 0


class KeptHistory(msgspec.Struct, frozen=True, omit_defaults=True):
    """A history as it is stored. has_stopped: whether the server was stopped then, at saved_s."""

    saved_s: float
    has_stopped: bool
    hour: list[Bucket]
    day: list[Bucket]
    happenings: list[Happening]
    failures: list[Failure]


class History:
    """Buckets of a minute for the last hour, and of ten minutes for the last day. Counting costs microseconds; all
    buckets together take about a megabyte if MAX_KEYS keys are used in each."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.happenings: deque[Happening] = deque(maxlen=_MAX_HAPPENINGS)
        self.failures: deque[Failure] = deque(maxlen=_MAX_FAILURES)
        self._invalid_keys: dict[str, Failure] = {}  # the last one by route, of requests other than POSTs
        self._clock = clock
        self._series = (_Series(MINUTE_S, NUM_MINUTES), _Series(TEN_MINUTES_S, NUM_TEN_MINUTES))
        self.note("started")

    def hour(self) -> list[Bucket]:
        """Return the buckets of the last hour that had any activity, oldest first."""
        return self._series[0].recent(self._clock())

    def day(self) -> list[Bucket]:
        """Return the buckets of the last day that had any activity, oldest first."""
        return self._series[1].recent(self._clock())

    @property
    def known_since_s(self) -> float:
        """Begin of what is known, in seconds since 1970: the first start of a server, unless that was dropped."""
        first = self.happenings[0]
        if len(self.happenings) < _MAX_HAPPENINGS:
            return first.at_s
        return min([first.at_s, *(each.start_s for each in self.day()[:1])])

    def kept(self, *, has_stopped: bool) -> KeptHistory:
        """Return what to store."""
        return KeptHistory(
            self._clock(), has_stopped, self.hour(), self.day(), list(self.happenings), list(self.failures)
        )

    def resume(self, kept: KeptHistory) -> None:
        """Continue the history of the last server. Must be called before anything is counted.

        What lies in the future is dropped: the clock was wrong, and all later counts would join it.
        """
        now_s = self._clock()
        end = Happening(min(kept.saved_s, now_s), "stopped" if kept.has_stopped else "killed")
        before = [each for each in kept.happenings if each.at_s <= now_s]
        self.happenings = deque([*before, end, *self.happenings], maxlen=_MAX_HAPPENINGS)
        failures = [each for each in kept.failures if each.at_s <= now_s]
        self.failures = deque([*failures, *self.failures], maxlen=_MAX_FAILURES)
        for series, buckets in zip(self._series, (kept.hour, kept.day), strict=True):
            series.resume([each for each in buckets if each.start_s <= now_s])

    def note(self, kind: str, model: str | None = None, detail: str = "") -> None:
        self.happenings.append(Happening(self._clock(), kind, model, detail))

    def engine_ended(self, model: str, end: EngineEnd) -> None:
        """Note that a model's engine process has ended, and another is being started."""
        self.happenings.append(
            Happening(
                self._clock(), "engine_ended", model, end.reason.value, end.cause, end.num_continued, end.num_failed
            )
        )

    def on_step(self, stats: StepStats) -> None:
        now_s = self._clock()
        for series in self._series:
            bucket = series.at(now_s)
            bucket.read_tokens += stats.read_tokens
            bucket.written_tokens += stats.written_tokens
            bucket.most_running = max(bucket.most_running, stats.running)
            bucket.most_waiting = max(bucket.most_waiting, stats.waiting)

    def on_over(self, record: RequestRecord) -> None:
        """Count a finished POST of a client, any request with a key that is not valid, or a line of a batch that counts
        in its key's usage. A page asks without a key to learn whether it needs one."""
        if not _is_counted(record):
            return
        now_s, outcome = self._clock(), record.outcome
        is_refused, has_failed = outcome is RequestOutcome.REFUSED, outcome in _FAULTS
        key = key_of(record)
        for series in self._series:
            bucket = series.at(now_s)
            if not record.is_batch_line:
                bucket.requests += 1
                bucket.refused += is_refused
                bucket.failed += has_failed
            use = _use_of(bucket.batches if record.is_batch_line else bucket.keys, key)
            use.requests += 1
            use.refused += is_refused or has_failed
            use.prompt_tokens += record.counted_prompt_tokens
            use.cached_tokens += record.cached_tokens
            use.output_tokens += record.output_tokens
        if (is_refused or has_failed) and not record.is_batch_line:
            status, error = record.error_status or record.status, record.error_code or outcome.value
            failure = Failure(now_s, record.request_id, record.route, record.model_name, key, status, error)
            self._list(failure, is_post=record.method == "POST")

    def _list(self, failure: Failure, *, is_post: bool) -> None:
        """List a failure. Of requests other than POSTs, the last one of each route is: a program that reads again and
        again with an old key must not displace all else."""
        if not is_post:
            if (before := self._invalid_keys.get(failure.route)) is not None and before in self.failures:
                self.failures.remove(before)
            self._invalid_keys[failure.route] = failure
        self.failures.append(failure)

    def on_machine(self, figures: MachineFigures) -> None:
        now_s, total, free = self._clock(), figures.memory_total, figures.memory_free
        used = None if not total or free is None else 1 - free / total
        for series in self._series:
            bucket = series.at(now_s)
            bucket.cpu_busy = _most(bucket.cpu_busy, figures.cpu_busy)
            bucket.memory_used = _most(bucket.memory_used, used)


class _Series:
    """The last buckets of one width. Invariant: at most `limit`, in order of time."""

    def __init__(self, width_s: int, limit: int) -> None:
        self._width_s = width_s
        self._buckets: deque[Bucket] = deque(maxlen=limit)

    def at(self, now_s: float) -> Bucket:
        """Return the current bucket. If the clock was set back, that is the last one."""
        start_s = int(now_s) // self._width_s * self._width_s
        if not self._buckets or self._buckets[-1].start_s < start_s:
            self._buckets.append(Bucket(start_s=start_s))
        return self._buckets[-1]

    def resume(self, buckets: list[Bucket]) -> None:
        self._buckets = deque([*buckets, *self._buckets], maxlen=self._buckets.maxlen)

    def recent(self, now_s: float) -> list[Bucket]:
        first_s = now_s - self._width_s * (self._buckets.maxlen or 0)
        return [each for each in self._buckets if each.start_s > first_s]


def key_of(record: RequestRecord) -> str:
    """Return the name under which the record's use is counted; empty for a key without a name, or without keys."""
    if record.key_name is None and record.error_status == _UNAUTHORIZED:
        return NO_KEY
    return record.key_name or ""


def _is_counted(record: RequestRecord) -> bool:
    if record.is_batch_line:
        return record.is_usage
    return record.method == "POST" or (record.has_key and key_of(record) == NO_KEY)


def _use_of(uses: dict[str, KeyUse], key: str) -> KeyUse:
    name = key if key in uses or len(uses) < MAX_KEYS else OTHER_KEYS
    return uses.setdefault(name, KeyUse())


def _most(known: float | None, found: float | None) -> float | None:
    return known if found is None else found if known is None else max(known, found)
