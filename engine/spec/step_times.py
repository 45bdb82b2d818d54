"""StepTimes: how long a step takes, by its rows, learned while serving."""

from dataclasses import dataclass, field

_SURE = 3  # measurements from which on they are averaged
_RATE = 0.1  # weight of a new measurement, once there are ten
_OUTLIER = 3.0  # times the mean: more is a pause of the machine, not the step
_FADING = 0.998  # of a mean's weight, for each measurement of another size in its band


@dataclass(slots=True)
class _Mean:
    seconds: float
    count: int = 0  # 0: from a first run, which may have recorded a tape and does not count as known
    seen_at: int = 0

    def add(self, seconds: float, now: int) -> None:
        if self.count < _SURE:
            self.seconds = min(self.seconds, seconds)  # what disturbs a measurement makes it longer
        else:
            rate = max(_RATE, 1 / (self.count + 1))
            self.seconds += rate * (min(seconds, _OUTLIER * self.seconds) - self.seconds)
        self.count += 1
        self.seen_at = now


@dataclass(slots=True)
class _Band:
    means: dict[int, _Mean] = field(default_factory=dict)  # by rows
    now: int = 0  # measurements so far


class StepTimes:
    """Seconds of steps that decode and verify, by rows, in bands of batch size (1, 2, 3-4, 5-8, ...).

    What has not been measured, or not lately, is estimated from below: at least as long as fewer rows take, and as the
    rows' arithmetic at the speed of a prefill; between two known sizes, nearer to the line between them. So what could
    pay well is tried, and then known.
    """

    def __init__(self) -> None:
        self._bands: dict[int, _Band] = {}
        self._seconds_per_row: float | None = None  # of prefills: the least that a row can take

    def observe(self, num_sequences: int, num_rows: int, seconds: float) -> None:
        """A step in which every sequence had one token, and its draft, to compute."""
        band = self._bands.setdefault(num_sequences.bit_length(), _Band())
        band.now += 1
        size = _size(num_rows)
        mean = band.means.get(size)
        if mean is None:
            band.means[size] = _Mean(seconds, seen_at=band.now)
        else:
            mean.add(seconds, band.now)

    def age(self) -> None:
        """A step went by in which nothing was measured; what is known fades."""
        for band in self._bands.values():
            band.now += 1

    def observe_prefill(self, num_rows: int, seconds: float) -> None:
        """A step with many rows."""
        rate = seconds / num_rows
        known = self._seconds_per_row
        self._seconds_per_row = rate if known is None else min(rate, known + _RATE * (rate - known))

    def knows(self, num_sequences: int, num_rows: int) -> bool:
        """Whether steps of this size have been measured."""
        band = self._bands.get(num_sequences.bit_length())
        mean = None if band is None else band.means.get(_size(num_rows))
        return mean is not None and mean.count > 0

    def estimate(self, num_sequences: int, num_rows: int) -> float:
        """Seconds of a step; 0 where nothing is known."""
        band = self._bands.get(num_sequences.bit_length())
        arithmetic = num_rows * (self._seconds_per_row or 0.0)
        if band is None:
            return arithmetic
        size = _size(num_rows)
        known = {s: mean for s, mean in band.means.items() if mean.count}
        fewer = max((s for s in known if s < size), default=None)
        least = max(arithmetic, 0.0 if fewer is None else known[fewer].seconds)
        mean = known.get(size)
        if mean is not None:
            return least + (mean.seconds - least) * _FADING ** (band.now - mean.seen_at)
        more = min((s for s in known if s > size), default=None)
        if more is None or fewer is None:
            return least if more is None else min(least, known[more].seconds)
        share = (size - fewer) / (more - fewer)
        between = known[fewer].seconds + share * (known[more].seconds - known[fewer].seconds)
        return (least + max(least, between)) / 2  # half hope, half the line between what is known


def _size(num_rows: int) -> int:
    """Numbers of rows that are counted as one: exact up to 8, then in steps of a quarter to an eighth."""
    step = 1 << max(0, (num_rows - 1).bit_length() - 3)
    return -(-num_rows // step) * step
