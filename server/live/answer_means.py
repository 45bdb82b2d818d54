"""AnswerMeans: mean time and tokens of one model's latest answers."""

import time
from collections import deque
from collections.abc import Callable

from server.metrics.request_record import RequestOutcome, RequestRecord

_MINUTE_S, _NUM_MINUTES = 60, 60
_NUM_MEANT = 5  # minutes in a mean


class AnswerMeans:
    """Sums by minute of a model's answers to clients. The means are of the five minutes that end with the last answer.
    None: no answer in the last hour."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._minutes: deque[_Minute] = deque(maxlen=_NUM_MEANT)

    def add(self, record: RequestRecord) -> None:
        """Count a finished request, if it was answered."""
        if record.outcome is not RequestOutcome.COMPLETED or not record.output_tokens:
            return
        minute = int(self._clock() // _MINUTE_S)
        if not self._minutes or self._minutes[-1].number != minute:
            self._minutes.append(_Minute(minute))
        last = self._minutes[-1]
        last.answers += 1
        last.seconds += time.monotonic() - record.arrival_s
        last.prompt_tokens += record.counted_prompt_tokens
        last.output_tokens += record.output_tokens

    @property
    def seconds(self) -> float | None:
        """Mean time of an answer, from the request's arrival to its end."""
        return self._mean(lambda minute: minute.seconds)

    @property
    def prompt_tokens(self) -> float | None:
        """Mean number of tokens of a prompt."""
        return self._mean(lambda minute: minute.prompt_tokens)

    @property
    def output_tokens(self) -> float | None:
        """Mean number of tokens of an answer."""
        return self._mean(lambda minute: minute.output_tokens)

    def _mean(self, value_of: "Callable[[_Minute], float]") -> float | None:
        minutes = self._recent()
        return sum(map(value_of, minutes)) / sum(each.answers for each in minutes) if minutes else None

    def _recent(self) -> "list[_Minute]":
        if not self._minutes or self._minutes[-1].number <= int(self._clock() // _MINUTE_S) - _NUM_MINUTES:
            return []
        first = self._minutes[-1].number - _NUM_MEANT
        return [each for each in self._minutes if each.number > first]


class _Minute:
    def __init__(self, number: int) -> None:
        self.number = number
        self.answers = self.prompt_tokens = self.output_tokens = 0
        self.seconds = 0.0
