"""Spending: the tokens that each key has used in the current day and month."""

import datetime
from collections import Counter
from collections.abc import Callable

from server.keys.key import BudgetPeriod


def utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class Spending:
    """Tokens used by each key in the current UTC day and month. Setting the clock back restarts no period."""

    def __init__(self, now: Callable[[], datetime.datetime] = utc_now) -> None:
        self._now = now
        self._starts = {period: period_start(period, now()) for period in BudgetPeriod}
        self._tokens: dict[BudgetPeriod, Counter[str]] = {period: Counter() for period in BudgetPeriod}

    def add(self, name: str, num_tokens: int, at: datetime.datetime | None = None) -> None:
        """Count tokens of a request that ended at `at`, or now. A period that has passed is ignored.

        A request that ends now counts in the current periods even if the clock was ahead and has been set back.
        """
        self._start_periods()
        for period, start in self._starts.items():
            if at is None or at >= start:
                self._tokens[period][name] += num_tokens

    def spent(self, name: str, period: BudgetPeriod) -> int:
        self._start_periods()
        return self._tokens[period][name]

    def ends(self, period: BudgetPeriod) -> datetime.datetime:
        """Return the end of the current period."""
        self._start_periods()
        return next_start(period, self._starts[period])

    def seconds_left(self, period: BudgetPeriod) -> float:
        return (self.ends(period) - self._now()).total_seconds()

    def _start_periods(self) -> None:
        now = self._now()
        for period, start in self._starts.items():
            if (newest := period_start(period, now)) > start:
                self._starts[period] = newest
                self._tokens[period].clear()


def period_start(period: BudgetPeriod, moment: datetime.datetime) -> datetime.datetime:
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight if period is BudgetPeriod.DAY else midnight.replace(day=1)


def next_start(period: BudgetPeriod, start: datetime.datetime) -> datetime.datetime:
    if period is BudgetPeriod.DAY:
        return start + datetime.timedelta(days=1)
    return (start + datetime.timedelta(days=32)).replace(day=1)
