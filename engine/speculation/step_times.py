"""StepTimes: how long a step takes, by its rows, learned while serving."""

from collections import deque
from dataclasses import dataclass, field

_WINDOW = 15  # measurements of a size that count, the last ones
_SURE = 3  # from so many on they are believed for long
_FADING = 0.998  # of what is known, for each measurement of another size in its band
_DOUBT = 0.98  # the same, while there are fewer than _SURE
_STALE = 100  # after so many others a new measurement of a size leaves only the last of its old ones
_FRESH = 500  # measurements in a band after which one of a larger size says nothing about a smaller one any more
_RATE = 0.1  # weight of a new measurement of a prefill


@dataclass(slots=True)
class _Size:
    """Measurements of one number of rows. What disturbs one makes it longer: of few, the lower ones are believed."""

    recent: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    seen_at: int = 0
    median: float = 0.0

    def add(self, seconds: float, now: int) -> None:
        if now - self.seen_at > _STALE:
            while len(self.recent) > 1:
                self.recent.popleft()
        self.recent.append(seconds)
        self.seen_at = now
        self.median = sorted(self.recent)[(len(self.recent) - 1) // 2]

    @property
    def mean(self) -> float:
        return sum(self.recent) / len(self.recent)

    def weight(self, now: int) -> float:
        """What the measurements still count for, from 1 down to 0."""
        return float((_FADING if len(self.recent) >= _SURE else _DOUBT) ** (now - self.seen_at))


@dataclass(slots=True)
class _Band:
    sizes: dict[int, _Size] = field(default_factory=dict)  # by rows
    now: int = 0  # measurements so far
    known: dict[int, float] = field(default_factory=dict)  # seconds by rows, none longer than those of a larger size
    estimates: dict[int, float] = field(default_factory=dict)  # by rows, until time goes on

    def add(self, num_rows: int, seconds: float) -> None:
        self.pass_time()
        self.sizes.setdefault(num_rows, _Size()).add(seconds, self.now)
        self.known = {}
        shortest = float("inf")
        for size in sorted(self.sizes, reverse=True):
            measured = self.sizes[size]
            self.known[size] = min(shortest, measured.median)
            if self.now - measured.seen_at < _FRESH:
                shortest = self.known[size]

    def pass_time(self) -> None:
        self.now += 1
        self.estimates.clear()


class StepTimes:
    """Seconds of steps that decode and verify, by rows, in bands of batch size (1, 2-3, 4-7, 8-15, ...).

    More rows never take less time: a measurement that a larger size contradicts was disturbed. What has not been
    measured, or not lately, is hoped to be half way between the line through the sizes next to it and the least that
    it can be: as long as fewer rows take, and as the rows' arithmetic at the speed of a prefill. So what could pay well
    is tried, and then known.
    """

    def __init__(self) -> None:
        self._bands: dict[int, _Band] = {}
        self._seconds_per_row: float | None = None  # of prefills: the least that a row can take

    @property
    def seconds_per_row(self) -> float:
        """Of steps with many rows; 0 if there was none."""
        return self._seconds_per_row or 0.0

    def observe(self, num_sequences: int, num_rows: int, seconds: float) -> None:
        """A step in which every sequence had one token, and its draft, to compute."""
        self._bands.setdefault(num_sequences.bit_length(), _Band()).add(_size(num_rows), seconds)

    def age(self) -> None:
        """A step went by in which nothing was measured; what is known fades."""
        for band in self._bands.values():
            band.pass_time()

    def observe_prefill(self, num_rows: int, seconds: float) -> None:
        """A step with many rows."""
        rate = seconds / num_rows
        known = self._seconds_per_row
        self._seconds_per_row = rate if known is None else min(rate, known + _RATE * (rate - known))

    def knows(self, num_sequences: int, num_rows: int) -> bool:
        """Whether steps of this size have been measured, and not only once, which may have been disturbed."""
        size = self._measured(num_sequences, num_rows)
        return size is not None and len(size.recent) > 1

    def mean(self, num_sequences: int, num_rows: int) -> float:
        """Seconds that steps of this size took, disturbed ones among them; else the estimate."""
        size = self._measured(num_sequences, num_rows)
        return self.estimate(num_sequences, num_rows) if size is None else size.mean

    def estimate(self, num_sequences: int, num_rows: int) -> float:
        """Seconds of a step; 0 where nothing is known."""
        band = self._bands.get(num_sequences.bit_length())
        size = _size(num_rows)
        if band is None:
            return size * self.seconds_per_row
        if size not in band.estimates:
            band.estimates[size] = self._estimate(band, size)
        return band.estimates[size]

    def _measured(self, num_sequences: int, num_rows: int) -> _Size | None:
        band = self._bands.get(num_sequences.bit_length())
        return None if band is None else band.sizes.get(_size(num_rows))

    def _estimate(self, band: _Band, size: int) -> float:
        hoped = self._hoped({s: seconds for s, seconds in band.known.items() if s != size}, size)
        if size not in band.known:
            return hoped
        return hoped + (band.known[size] - hoped) * band.sizes[size].weight(band.now)

    def _hoped(self, known: dict[int, float], size: int) -> float:
        """Of a size that is not among the known ones."""
        smaller, larger = sorted(s for s in known if s < size), sorted(s for s in known if s > size)
        least = max(size * self.seconds_per_row, known[smaller[-1]] if smaller else 0.0)
        if not smaller:
            return min([least, *(known[s] for s in larger[:1])])
        low, high = (smaller[-1], larger[0]) if larger else (smaller[0], smaller[-1])
        slope = (known[high] - known[low]) / (high - low) if high > low else 0.0
        return (least + max(least, known[low] + slope * (size - low))) / 2


def _size(num_rows: int) -> int:
    """Numbers of rows that are counted as one: exact up to 8, then in steps of a quarter to an eighth."""
    step = 1 << max(0, (num_rows - 1).bit_length() - 3)
    return -(-num_rows // step) * step
