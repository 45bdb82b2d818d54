"""Spending by UTC's days and months."""

import datetime

import pytest

from server.keys.key import BudgetPeriod
from server.keys.spending import Spending

pytestmark = pytest.mark.fast

DAY, MONTH = BudgetPeriod.DAY, BudgetPeriod.MONTH


def _at(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)


class Now:
    def __init__(self, text: str) -> None:
        self.moment = _at(text)

    def __call__(self) -> datetime.datetime:
        return self.moment


def test_days_and_months_begin_anew_and_apart() -> None:
    now = Now("2026-12-30T23:59:59")
    spending = Spending(now)
    spending.add("ann", 5)
    now.moment = _at("2026-12-31T00:00:00")
    spending.add("ann", 7)
    spending.add("ben", 1)
    assert (spending.spent("ann", DAY), spending.spent("ann", MONTH)) == (7, 12)
    assert spending.ends(DAY) == spending.ends(MONTH) == _at("2027-01-01T00:00:00")
    assert spending.seconds_left(MONTH) == 86400
    now.moment = _at("2027-01-01T00:00:00")
    assert (spending.spent("ann", DAY), spending.spent("ann", MONTH), spending.spent("ben", MONTH)) == (0, 0, 0)
    assert spending.ends(MONTH) == _at("2027-02-01T00:00:00")


def test_what_was_spent_before_counts_where_it_belongs() -> None:
    spending = Spending(Now("2026-03-10T12:00:00"))
    for moment, tokens in (("2026-02-28T23:00:00", 100), ("2026-03-09T23:00:00", 10), ("2026-03-10T00:00:00", 1)):
        spending.add("ann", tokens, _at(moment))
    assert (spending.spent("ann", DAY), spending.spent("ann", MONTH)) == (1, 11)


def test_a_clock_that_is_set_back_gives_no_budget_again() -> None:
    now = Now("2026-03-01T00:00:10")
    spending = Spending(now)
    spending.add("ann", 5)
    now.moment = _at("2026-02-28T23:59:50")
    assert spending.spent("ann", DAY) == 5
    spending.add("ann", 2)
    assert (spending.spent("ann", DAY), spending.spent("ann", MONTH)) == (7, 7)
    now.moment = _at("2026-03-01T00:00:20")
    assert spending.spent("ann", DAY) == 7
