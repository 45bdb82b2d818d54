"""Pace: how long steps of an engine take by the number of requests that it answers, as measured while it works."""

from engine.protocol import StepStats

_WEIGHT = 0.05  # of a new step in the mean


class Pace:
    """Moving mean of the time between tokens, by the number of clients' requests that run. At most as many numbers as
    an engine has slots."""

    def __init__(self) -> None:
        self._mean_s: dict[int, float] = {}
        self._num_running = 0  # after the last step
        self._batch_tokens = 0.0  # moving means over the steps of batches
        self._batch_s = 0.0

    def on_step(self, stats: StepStats) -> None:
        """Count a step's time for the requests that ran before it. `stats` has those after it, without the ended ones,
        and with those whose prompt was read in it. A new engine begins with a report without running requests."""
        if stats.batch_prefill_tokens or stats.batch_decode_tokens:
            self._batch_tokens += _WEIGHT * (stats.batch_decode_tokens - self._batch_tokens)
            self._batch_s += _WEIGHT * (stats.step_s - self._batch_s)
        num_running, self._num_running = self._num_running, stats.running
        if not stats.decode_tokens or not num_running:
            return
        known = self._mean_s.get(num_running)
        self._mean_s[num_running] = stats.step_s if known is None else known + _WEIGHT * (stats.step_s - known)

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
