"""QueueLimit: how many requests may wait, and when a refused client should try again."""

import math
from collections import deque

from engine.errors import QueueFull, ShedReason
from engine.wording import counted

_WINDOW_S = 60.0  # in which ended requests count: long enough for a mean, short enough for a load that changes
_MIN_RETRY_S, _MAX_RETRY_S = 1.0, 120.0


class QueueLimit:
    """Limits on the queue, and the rate at which requests end. now: time.monotonic(), never decreasing."""

    def __init__(self, max_num_waiting: int, max_num_tokens: int | None = None) -> None:
        """max_num_tokens: prompt tokens of waiting requests; None is no limit."""
        self._max_num_waiting = max_num_waiting
        self._max_num_tokens = max_num_tokens
        self._busy_since_s: float | None = None  # None while there is no work
        self._ends: deque[float] = deque()  # of the window

    def begin(self, now: float) -> None:
        """Start to measure the rate: work has arrived after a pause, and earlier rates no longer apply."""
        self._busy_since_s = now
        self._ends.clear()

    def rest(self) -> None:
        """Stop measuring the rate: there is no work left."""
        self._busy_since_s = None
        self._ends.clear()

    def count_end(self, now: float) -> None:
        """Count a request that has ended for any reason."""
        self._ends.append(now)
        self._forget(now)

    def check(self, num_waiting: int, now: float) -> None:
        """Raise QueueFull if `num_waiting` requests, including the new ones, exceed the limit."""
        if num_waiting > self._max_num_waiting:
            retry_after_s = self.drain_s(num_waiting, now)
            raise QueueFull(
                f"{counted(num_waiting, 'request')} would wait; the limit is {self._max_num_waiting} "
                f"(--max-num-waiting); try again in {math.ceil(retry_after_s)} s",
                retry_after_s=retry_after_s,
            )

    def check_tokens(self, num_tokens: int, *, waiting: int, num_waiting: int, now: float) -> None:
        """Raise QueueFull if `num_tokens` more prompt tokens are too many, with `waiting` tokens in the queue.

        An empty queue takes any prompt: otherwise, a prompt that is longer than the limit would always be refused.
        """
        limit = self._max_num_tokens
        if limit is None or waiting == 0 or waiting + num_tokens <= limit:
            return
        surplus = min(waiting, waiting + num_tokens - limit)
        retry_after_s = max(_MIN_RETRY_S, self.drain_s(num_waiting, now) * surplus / waiting)
        raise QueueFull(
            f"{waiting:,} prompt tokens wait, and this request has {num_tokens:,} or more; the limit is {limit:,} "
            f"(--max-num-waiting-tokens); try again in {math.ceil(retry_after_s)} s, or shorten the prompt",
            retry_after_s=retry_after_s,
            reason=ShedReason.WAITING_TOKENS,
        )

    def drain_s(self, num_waiting: int, now: float) -> float:
        """Estimate how long `num_waiting` requests take at the recent rate, in seconds from _MIN_RETRY_S to
        _MAX_RETRY_S. If no request has ended recently, one is assumed to end now."""
        self._forget(now)
        elapsed_s = 0.0 if self._busy_since_s is None else min(_WINDOW_S, now - self._busy_since_s)
        return min(_MAX_RETRY_S, max(_MIN_RETRY_S, num_waiting * elapsed_s / max(1, len(self._ends))))

    def _forget(self, now: float) -> None:
        while self._ends and now - self._ends[0] > _WINDOW_S:
            self._ends.popleft()
