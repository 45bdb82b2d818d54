"""StepTimes: estimates how long a step takes by its number of rows, learned while serving."""

from collections import deque
from dataclasses import dataclass, field

_WINDOW = 15  # latest measurements of a bucket that count
_RELIABLE = 3  # measurements of a bucket from which on they count for long
_DECAY = 0.998  # of a bucket's weight, for each measurement of another bucket in its band
_UNRELIABLE_DECAY = 0.98  # while there are fewer than _RELIABLE measurements
_STALE = 100  # measurements of others, after which a new one leaves only the last of the old ones
_FRESH = 500  # measurements in a band, after which a larger bucket no longer bounds a smaller one
_PREFILL_ROWS = 64
_NEW_WEIGHT = 0.1  # of a new measurement of a prefill


@dataclass(slots=True)
class _Bucket:
    """Times of steps with one number of rows. Disturbances only lengthen a step, so the lower median counts."""

    recent: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    measured_at: int = 0
    median: float = 0.0

    def add(self, seconds: float, now: int) -> None:
        if now - self.measured_at > _STALE:
            while len(self.recent) > 1:
                self.recent.popleft()
        self.recent.append(seconds)
        self.measured_at = now
        self.median = sorted(self.recent)[(len(self.recent) - 1) // 2]

    @property
    def mean(self) -> float:
        return sum(self.recent) / len(self.recent)

    def weight(self, now: int) -> float:
        """Return the weight of the measurements, which decays from 1 to 0 as `now` advances."""
        return float((_DECAY if len(self.recent) >= _RELIABLE else _UNRELIABLE_DECAY) ** (now - self.measured_at))


@dataclass(slots=True)
class _Band:
    buckets: dict[int, _Bucket] = field(default_factory=dict)  # by rows
    now: int = 0  # measurements so far
    known: dict[int, float] = field(default_factory=dict)  # seconds by rows, none longer than for more rows
    estimates: dict[int, float] = field(default_factory=dict)  # by rows, until `now` changes

    def add(self, num_rows: int, seconds: float) -> None:
        self.pass_time()
        self.buckets.setdefault(num_rows, _Bucket()).add(seconds, self.now)
        self.known = {}
        shortest = float("inf")
        for rows in sorted(self.buckets, reverse=True):
            measured = self.buckets[rows]
            self.known[rows] = min(shortest, measured.median)
            if self.now - measured.measured_at < _FRESH:
                shortest = self.known[rows]

    def pass_time(self) -> None:
        self.now += 1
        self.estimates.clear()


class StepTimes:
    """Seconds of decoding and verifying steps by number of rows, kept apart by batch size (1, 2-3, 4-7, 8-15, ...).

    More rows never take less time: a measurement that a larger bucket contradicts was disturbed. A bucket without
    recent measurements is estimated optimistically, halfway between the line through the buckets next to it and the
    lower bound: the time of fewer rows, or of the rows' arithmetic at the speed of a prefill. So a draft length that
    might pay is tried, and thereby measured.
    """

    def __init__(self) -> None:
        self._bands: dict[int, _Band] = {}
        self._seconds_per_row: float | None = None  # of prefills: the least time of a row

    @property
    def seconds_per_row(self) -> float:
        """Seconds per row of steps with prompts and many rows; 0 before the first such step."""
        return self._seconds_per_row or 0.0

    def observe(self, num_sequences: int, num_rows: int, seconds: float) -> None:
        """Record a step in which every sequence computed one token and its draft."""
        self._bands.setdefault(num_sequences.bit_length(), _Band()).add(_bucket_rows(num_rows), seconds)

    def age(self) -> None:
        """Lower the weight of all measurements, after a step that measured nothing."""
        for band in self._bands.values():
            band.pass_time()

    def observe_prefill(self, num_rows: int, seconds: float) -> None:
        """Update `seconds_per_row` with a step that has prompts, if it has enough rows to be bound by arithmetic."""
        if num_rows < _PREFILL_ROWS:
            return
        rate = seconds / num_rows
        known = self._seconds_per_row
        self._seconds_per_row = rate if known is None else min(rate, known + _NEW_WEIGHT * (rate - known))

    def knows(self, num_sequences: int, num_rows: int) -> bool:
        """Whether steps of this size have been measured more than once; a single one may have been disturbed."""
        bucket = self._measured(num_sequences, num_rows)
        return bucket is not None and len(bucket.recent) > 1

    def mean(self, num_sequences: int, num_rows: int) -> float:
        """Return the mean seconds of steps of this size, disturbed ones included; the estimate if none was measured."""
        bucket = self._measured(num_sequences, num_rows)
        return self.estimate(num_sequences, num_rows) if bucket is None else bucket.mean

    def estimate(self, num_sequences: int, num_rows: int) -> float:
        """Return the estimated seconds of an undisturbed step; 0 if nothing has been measured."""
        band = self._bands.get(num_sequences.bit_length())
        rows = _bucket_rows(num_rows)
        if band is None:
            return rows * self.seconds_per_row
        if rows not in band.estimates:
            band.estimates[rows] = self._estimate(band, rows)
        return band.estimates[rows]

    def _measured(self, num_sequences: int, num_rows: int) -> _Bucket | None:
        band = self._bands.get(num_sequences.bit_length())
        return None if band is None else band.buckets.get(_bucket_rows(num_rows))

    def _estimate(self, band: _Band, rows: int) -> float:
        optimistic = self._optimistic({r: seconds for r, seconds in band.known.items() if r != rows}, rows)
        if rows not in band.known:
            return optimistic
        return optimistic + (band.known[rows] - optimistic) * band.buckets[rows].weight(band.now)

    def _optimistic(self, known: dict[int, float], rows: int) -> float:
        """Return the estimate for a number of rows, from the measured times of other numbers."""
        smaller, larger = sorted(r for r in known if r < rows), sorted(r for r in known if r > rows)
        bound = max(rows * self.seconds_per_row, known[smaller[-1]] if smaller else 0.0)
        if not smaller:
            return min([bound, *(known[r] for r in larger[:1])])
        low, high = (smaller[-1], larger[0]) if larger else (smaller[0], smaller[-1])
        slope = (known[high] - known[low]) / (high - low) if high > low else 0.0
        return (bound + max(bound, known[low] + slope * (rows - low))) / 2


def _bucket_rows(num_rows: int) -> int:
    """Round a number of rows up to its bucket's: exact up to 8, then in steps of an eighth to a quarter."""
    step = 1 << max(0, (num_rows - 1).bit_length() - 3)
    return -(-num_rows // step) * step
