"""Accounts: what a key's limits refuse, when they take more again, and what is given back."""

import contextlib
import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import BudgetSpent, RateLimited, TokensLimited, describe_error
from server.keys.account import Account, LimitStatus, TokenReservation
from server.keys.key import ApiKey
from server.keys.spending import Spending
from tests.helpers.keys import api_key

pytestmark = pytest.mark.fast

START = datetime.datetime(2026, 5, 31, 23, 0, tzinfo=datetime.UTC)


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def utc(self) -> datetime.datetime:
        return START + datetime.timedelta(seconds=self.seconds)


def _account(**limits: Any) -> tuple[Account, Clock, Spending]:
    clock = Clock()
    spending = Spending(clock.utc)
    return Account(api_key("ann", **limits), spending, clock=clock.monotonic), clock, spending


def _begin(account: Account, prompt: int = 10, output: int = 0, *, is_open_ended: bool = False) -> TokenReservation:
    return account.reserve(prompt, output, is_open_ended=is_open_ended)


def _headers(error: Exception) -> dict[str, str]:
    return describe_error(error, "id").headers


def test_requests_beyond_the_rate_are_told_when_to_come_back() -> None:
    account, clock, _ = _account(requests_per_minute=6)
    for _ in range(6):
        account.count_request()
    with pytest.raises(RateLimited, match="may send 6 requests a minute; the next one is accepted in 10") as raised:
        account.count_request()
    reply = describe_error(raised.value, "id")
    assert (reply.status, reply.code, reply.type) == (429, "rate_limit_exceeded", "requests")
    assert reply.headers == {"retry-after": "10"}
    clock.seconds += 10
    account.count_request()
    with pytest.raises(RateLimited):
        account.count_request()


def test_a_request_that_was_not_taken_is_given_back_once_and_to_its_own_rate() -> None:
    account, _, _ = _account(requests_per_minute=6)
    first, second = account.count_request(), account.count_request()
    account.end_request(first, is_counted=True)
    assert account.requests is not None
    assert account.requests.level == 4
    for _ in range(2):
        account.end_request(second, is_counted=False)
    assert account.requests.level == 5
    held = account.count_request()
    account.set_limits(api_key("ann"))
    account.end_request(held, is_counted=False)
    account.set_limits(api_key("ann", requests_per_minute=6))
    account.end_request(held, is_counted=False)
    assert account.requests.level == 6


def test_tokens_are_reserved_and_what_is_not_used_comes_back() -> None:
    account, clock, _ = _account(tokens_per_minute=600)
    work = _begin(account, 100, 400)
    with pytest.raises(TokensLimited, match="600 tokens a minute; 200 are available in 10") as raised:
        _begin(account, 100, 100)
    assert _headers(raised.value) == {"retry-after": "10"}
    assert describe_error(raised.value, "id").type == "tokens"
    account.settle(work, 150)
    assert account.tokens is not None
    assert account.tokens.level == 450
    account.settle(work, 150)
    assert account.tokens.level == 450
    clock.seconds += 60
    assert account.tokens.level == 600


def test_of_rate_and_budget_the_one_with_less_is_told() -> None:
    account, clock, _ = _account(tokens_per_minute=600, budget_tokens=1000)
    assert account.requests_left is None
    assert account.tokens_left == LimitStatus(600, 600, 0)
    work = _begin(account, 100, 400)
    assert account.tokens_left == LimitStatus(600, 100, 50)
    clock.seconds += 50
    assert account.tokens_left == LimitStatus(1000, 500, 3550)
    account.settle(work, 1200)
    assert account.tokens_left == LimitStatus(1000, 0, 3550)
    clock.seconds += 3550
    assert account.tokens_left == LimitStatus(600, 600, 0)


def test_more_than_a_minute_ever_brings_is_refused_without_a_time_to_come_back() -> None:
    account, _, _ = _account(tokens_per_minute=600)
    with pytest.raises(TokensLimited, match=r"needs 700 at once, .* ask for fewer") as raised:
        _begin(account, 100, 600)
    assert _headers(raised.value) == {"x-should-retry": "false"}


def test_an_answer_of_any_length_reserves_what_can_be_and_is_settled_as_a_debt() -> None:
    account, clock, _ = _account(tokens_per_minute=600)
    work = _begin(account, 100, 1024, is_open_ended=True)
    assert work.num_tokens == 600
    account.settle(work, 900)
    assert account.tokens is not None
    assert account.tokens.level == -300
    with pytest.raises(TokensLimited) as raised:
        account.check_available()
    assert _headers(raised.value) == {"retry-after": "31"}
    clock.seconds += 31
    account.check_available()


def test_places_are_free_again_when_a_request_ends() -> None:
    account, _, _ = _account(max_concurrency=2)
    works = [_begin(account) for _ in range(2)]
    for refused in (account.check_available, lambda: _begin(account)):
        with pytest.raises(RateLimited, match="may have 2 requests at a time") as raised:
            refused()
        assert _headers(raised.value) == {"retry-after": "1"}
    account.settle(works[0], 10)
    _begin(account)


def test_a_budget_lasts_until_its_period_ends() -> None:
    account, clock, _ = _account(budget_tokens=1000)
    account.settle(_begin(account, 100, 500), 300)
    with pytest.raises(
        BudgetSpent, match="has 700 of its 1000 tokens a month left, and this request may use 800"
    ) as raised:
        _begin(account, 100, 700)
    reply = describe_error(raised.value, "id")
    assert (reply.status, reply.code, reply.type) == (429, "insufficient_quota", "insufficient_quota")
    assert reply.headers == {"retry-after": "3600", "x-should-retry": "false"}
    account.settle(_begin(account, 100, 600), 700)
    with pytest.raises(BudgetSpent, match="has 0 of its 1000 tokens a month left; wait until 2026-06-01T00:00:00Z"):
        account.check_available()
    clock.seconds += 3600
    _begin(account, 100, 700)


def test_running_requests_count_against_the_budget() -> None:
    account, _, _ = _account(budget_tokens=1000, budget_period="day")
    work = _begin(account, 100, 700)
    with pytest.raises(BudgetSpent):
        _begin(account, 100, 101)
    account.settle(work, 100)
    _begin(account, 100, 101)


def test_an_answer_of_any_length_may_take_the_rest_of_a_budget() -> None:
    account, _, _ = _account(budget_tokens=500)
    assert _begin(account, 100, 1024, is_open_ended=True).num_tokens == 500
    with pytest.raises(BudgetSpent):
        _begin(account, 100, 1024, is_open_ended=True)


def test_a_budget_of_nothing_takes_nothing() -> None:
    account, _, _ = _account(budget_tokens=0)
    with pytest.raises(BudgetSpent):
        account.check_available()


def test_a_refused_request_reserves_nothing() -> None:
    account, _, _ = _account(tokens_per_minute=100, budget_tokens=10_000, max_concurrency=5)
    with pytest.raises(TokensLimited):
        _begin(account, 100, 100)
    assert account.num_open == 0
    assert account.budget_left == 10_000
    assert account.tokens is not None
    assert account.tokens.level == 100


def test_limits_that_change_keep_what_was_used() -> None:
    account, _, _ = _account(requests_per_minute=5, tokens_per_minute=500, max_concurrency=1)
    account.count_request()
    work = _begin(account, 100, 300)
    account.set_limits(api_key("ann", requests_per_minute=10, budget_tokens=1000))
    assert account.requests is not None
    assert account.requests.level == 9
    assert account.tokens is None
    assert account.budget_left == 600
    account.settle(work, 400)
    account.check()


def test_who_was_refused_for_what_is_told() -> None:
    told: list[tuple[str, str]] = []
    key: ApiKey = api_key("ann", requests_per_minute=1, tokens_per_minute=1, max_concurrency=1)
    account = Account(key, Spending(), on_refused=lambda name, limit: told.append((name, limit.value)))
    account.count_request()
    for refused in (account.count_request, lambda: _begin(account, 5, 5)):
        with pytest.raises(RateLimited):
            refused()
    assert told == [("ann", "requests"), ("ann", "tokens")]


_EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.integers(0, 5000), st.just(0)),
        st.tuples(st.just("begin"), st.integers(1, 300), st.integers(0, 300)),
        st.tuples(st.just("end"), st.integers(0, 100), st.just(0)),
    ),
    max_size=60,
)


@given(_EVENTS)
def test_no_limit_is_ever_passed(events: list[tuple[str, int, int]]) -> None:
    account, clock, spending = _account(
        tokens_per_minute=600, max_concurrency=3, budget_tokens=2000, budget_period="day"
    )
    key = account._key
    running: list[tuple[float, TokenReservation]] = []
    used: list[tuple[float, int]] = []
    for kind, number, more in events:
        if kind == "wait":
            clock.seconds += number / 10
        elif kind == "begin":
            with contextlib.suppress(RateLimited):
                running.append((clock.seconds, _begin(account, number, more)))
        elif running:
            began_s, work = running.pop(0)
            account.settle(work, work.num_tokens * number // 100)
            used.append((began_s, work.num_tokens * number // 100))
        account.check()
        assert account.num_open == len(running) <= 3
        assert spending.spent("ann", key.budget_period) <= 2000
    used += [(began_s, work.num_tokens) for began_s, work in running]
    for first_s, _ in used:
        assert sum(tokens for at_s, tokens in used if first_s <= at_s < first_s + 60) <= 2 * 600 + 1e-6
