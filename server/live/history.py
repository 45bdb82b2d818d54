"""History: what all models did in the last hour and day, by key, in bounded memory; and what happened to the server."""

import time
from collections import deque
from collections.abc import Callable

import msgspec

from engine.protocol import StepStats
from server.live.machine import MachineFigures
from server.metrics.request_record import RequestOutcome, RequestRecord

MINUTE_S, TEN_MINUTES_S = 60, 600
NUM_MINUTES, NUM_TEN_MINUTES = 60, 144  # an hour, and a day
MAX_KEYS = 50  # in a bucket; further ones are counted together
OTHER_KEYS = "other keys"
_MAX_HAPPENINGS = 200


class KeyUse(msgspec.Struct):
    """Use of one key. refused: requests that were refused, failed or timed out."""

    requests: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0


class Bucket(msgspec.Struct, kw_only=True):
    """Activity of all models within a stretch of time.

    read_tokens, written_tokens: computed by the engines, lines of batches included. most_running, most_waiting: the
    highest numbers of clients' requests in one engine. cpu_busy, memory_used: highest shares that were sampled; null
    without a sample.
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


class Happening(msgspec.Struct, frozen=True):
    """An event in the server's life. kind: "started" or "engine_ended". detail: reason."""

    at_s: float
    kind: str
    model: str | None = None
    detail: str = ""


class History:
    """Buckets of a minute for the last hour, and of ten minutes for the last day. Counting costs microseconds; all
    buckets together take about a megabyte if MAX_KEYS keys are used in each."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.happenings: deque[Happening] = deque(maxlen=_MAX_HAPPENINGS)
        self._clock = clock
        self._series = (_Series(MINUTE_S, NUM_MINUTES), _Series(TEN_MINUTES_S, NUM_TEN_MINUTES))
        self.note("started")

    def hour(self) -> list[Bucket]:
        """Return the buckets of the last hour that had any activity, oldest first."""
        return self._series[0].recent(self._clock())

    def day(self) -> list[Bucket]:
        """Return the buckets of the last day that had any activity, oldest first."""
        return self._series[1].recent(self._clock())

    def note(self, kind: str, model: str | None = None, detail: str = "") -> None:
        self.happenings.append(Happening(self._clock(), kind, model, detail))

    def on_step(self, stats: StepStats) -> None:
        now_s = self._clock()
        for series in self._series:
            bucket = series.at(now_s)
            bucket.read_tokens += stats.read_tokens
            bucket.written_tokens += stats.written_tokens
            bucket.most_running = max(bucket.most_running, stats.running)
            bucket.most_waiting = max(bucket.most_waiting, stats.waiting)

    def on_over(self, record: RequestRecord) -> None:
        """Count a finished request that counts in the usage of its key."""
        now_s, outcome = self._clock(), record.outcome
        is_refused = outcome in (RequestOutcome.REFUSED, RequestOutcome.FAILED, RequestOutcome.TIMEOUT)
        for series in self._series:
            bucket = series.at(now_s)
            bucket.requests += 1
            bucket.refused += outcome is RequestOutcome.REFUSED
            bucket.failed += outcome in (RequestOutcome.FAILED, RequestOutcome.TIMEOUT)
            use = _use_of(bucket, record.key_name or "")
            use.requests += 1
            use.refused += is_refused
            use.prompt_tokens += record.counted_prompt_tokens
            use.cached_tokens += record.cached_tokens
            use.output_tokens += record.output_tokens

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

    def recent(self, now_s: float) -> list[Bucket]:
        first_s = now_s - self._width_s * (self._buckets.maxlen or 0)
        return [each for each in self._buckets if each.start_s > first_s]


def _use_of(bucket: Bucket, key: str) -> KeyUse:
    name = key if key in bucket.keys or len(bucket.keys) < MAX_KEYS else OTHER_KEYS
    return bucket.keys.setdefault(name, KeyUse())


def _most(known: float | None, found: float | None) -> float | None:
    return known if found is None else found if known is None else max(known, found)
