"""Pace: how long steps of an engine take by the number of requests that it answers, as measured while it works."""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from engine.protocol import StepStats

_WEIGHT = 0.05  # of a new step in the mean
_WINDOW_S = 10
_HOUR_S, _MINUTE_S = 3600, 60


@dataclass(slots=True)
class PredictedSteps:
    """Sums over steps whose time the step budget predicted. error_s: of the absolute differences."""

    predicted_s: float = 0.0
    measured_s: float = 0.0
    error_s: float = 0.0

    def add(self, other: "PredictedSteps") -> None:
        self.predicted_s += other.predicted_s
        self.measured_s += other.measured_s
        self.error_s += other.error_s


class Pace:
    """Moving mean of the time between tokens, by the number of clients' requests that run. At most as many numbers as
    an engine has slots."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._paused_s = 0.0  # for which batches made way for clients
        self._paused_since_s: float | None = None  # None: they do not
        self._batches: dict[str, tuple[float, float]] = {}  # by id: when this server began to run it, by both clocks
        self._mean_s: dict[int, float] = {}
        self._num_running = 0  # after the last step
        self._batch_tokens = 0.0  # moving means over the steps of batches
        self._batch_s = 0.0
        self._predicted: deque[tuple[int, PredictedSteps]] = deque(maxlen=_HOUR_S // _MINUTE_S)  # minutes, and sums
        self._texts: deque[tuple[int, int]] = deque(maxlen=_WINDOW_S)  # seconds, and texts pooled within them

    def on_step(self, stats: StepStats) -> None:
        """Count a step's time for the requests that ran before it. `stats` has those after it, without the ended ones,
        and with those whose prompt was read in it. A new engine begins with a report without running requests."""
        if stats.batch_prefill_tokens or stats.batch_decode_tokens:
            self._batch_tokens += _WEIGHT * (stats.batch_decode_tokens - self._batch_tokens)
            self._batch_s += _WEIGHT * (stats.step_s - self._batch_s)
        if stats.measured_s:
            self._add_predicted(stats.predicted_s, stats.measured_s)
        if stats.pooled_requests:
            self._add_texts(stats.pooled_requests)
        self._note_pause(has_paused=stats.running_batch == 0 and stats.running + stats.waiting > 0)
        num_running, self._num_running = self._num_running, stats.running
        if not stats.decode_tokens or not num_running:
            return
        known = self._mean_s.get(num_running)
        self._mean_s[num_running] = stats.step_s if known is None else known + _WEIGHT * (stats.step_s - known)

    def _add_predicted(self, predicted_s: float, measured_s: float) -> None:
        minute = int(self._clock() // _MINUTE_S)
        if not self._predicted or self._predicted[-1][0] != minute:
            self._predicted.append((minute, PredictedSteps()))
        self._predicted[-1][1].add(PredictedSteps(predicted_s, measured_s, abs(predicted_s - measured_s)))

    @property
    def predicted_steps(self) -> PredictedSteps:
        """Sums of the last hour."""
        first, total = (self._clock() - _HOUR_S) // _MINUTE_S, PredictedSteps()
        for minute, sums in self._predicted:
            if minute > first:
                total.add(sums)
        return total

    def _add_texts(self, number: int) -> None:
        second = int(self._clock())
        before = self._texts.pop()[1] if self._texts and self._texts[-1][0] == second else 0
        self._texts.append((second, before + number))

    @property
    def texts_per_s(self) -> float:
        """Texts a second that a pooling engine computed in the last ten seconds."""
        first = int(self._clock()) - _WINDOW_S
        return sum(number for second, number in self._texts if second > first) / _WINDOW_S

    def _note_pause(self, *, has_paused: bool) -> None:
        if has_paused == (self._paused_since_s is not None):
            return
        now_s = self._clock()
        if self._paused_since_s is not None:
            self._paused_s += now_s - self._paused_since_s
        self._paused_since_s = now_s if has_paused else None

    @property
    def batch_clock_s(self) -> float:
        """Time of a monotonic clock that stands still while batches make way for clients."""
        return (self._clock() if self._paused_since_s is None else self._paused_since_s) - self._paused_s

    @contextlib.contextmanager
    def running(self, batch_id: str) -> Iterator[None]:
        """Measure the pauses of a batch while its lines run."""
        self._batches[batch_id] = self._clock(), self.batch_clock_s
        try:
            yield
        finally:
            del self._batches[batch_id]

    def run_of(self, batch_id: str) -> tuple[float, float] | None:
        """Return for how many seconds this server has run a batch's lines until now, and for how many of these they
        made way for clients; None if it does not run them."""
        if (began := self._batches.get(batch_id)) is None:
            return None
        run_s = self._clock() - began[0]
        return run_s, max(0.0, run_s - (self.batch_clock_s - began[1]))

    @property
    def batch_tokens_per_s(self) -> float:
        """Tokens a second that the last steps of batches wrote; 0 before any such step."""
        return self._batch_tokens / self._batch_s if self._batch_s else 0.0

    def step_s(self, num_running: int) -> float | None:
        """Return the time between tokens with this many requests, extrapolated from the nearest smaller number in
        proportion, which is the worst case; None if no request has run."""
        if (known := self._mean_s.get(num_running)) is not None:
            return known
        below = max((each for each in self._mean_s if each < num_running), default=None)
        return None if below is None else self._mean_s[below] * num_running / below

    def most_within(self, limit_s: float) -> int:
        """Return the highest number of requests that ran with at most this time between tokens; 0 if none did."""
        return max((number for number, step_s in self._mean_s.items() if step_s <= limit_s), default=0)
