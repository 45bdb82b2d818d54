"""Who is refused for a full queue, and for how long."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.client.queue.queue_limit import QueueLimit
from engine.errors import QueueFull, ShedReason

pytestmark = pytest.mark.fast


def test_the_limit_is_the_most_that_may_wait() -> None:
    limit = QueueLimit(4)
    limit.begin(0.0)
    limit.check(4, 1.0)
    with pytest.raises(QueueFull, match="5 requests would wait; the limit is 4"):
        limit.check(5, 1.0)


@pytest.mark.parametrize(
    ("num_ends", "num_waiting", "expected_s"),
    [
        (40, 20, 5.0),  # four a second
        (40, 1, 1.0),  # at least a second
        (1, 100, 120.0),  # at most two minutes
        (0, 3, 30.0),  # none has ended in ten seconds: one may at any moment
    ],
)
def test_it_is_the_time_that_the_queue_takes_at_the_recent_rate(
    num_ends: int, num_waiting: int, expected_s: float
) -> None:
    limit = QueueLimit(0)
    limit.begin(100.0)
    for number in range(num_ends):
        limit.count_end(100.0 + 10.0 * (number + 1) / num_ends)
    with pytest.raises(QueueFull) as refused:
        limit.check(num_waiting, 110.0)
    assert refused.value.retry_after_s == pytest.approx(expected_s)


def test_the_rate_is_that_of_the_last_minute() -> None:
    limit = QueueLimit(0)
    limit.begin(0.0)
    for second in range(600):  # ten a second, and then one
        for _ in range(10 if second < 540 else 1):
            limit.count_end(float(second))
    assert limit.drain_s(60, 599.0) == pytest.approx(60.0, rel=0.2)


def test_an_idle_time_starts_anew() -> None:
    limit = QueueLimit(0)
    limit.begin(0.0)
    for _ in range(100):
        limit.count_end(1.0)
    limit.begin(30.0)
    assert limit.drain_s(5, 34.0) == pytest.approx(20.0)


def test_a_burst_at_a_server_without_work_is_told_to_come_back_soon() -> None:
    limit = QueueLimit(0)
    assert limit.drain_s(5, 1000.0) == 1.0  # it has never had any
    limit.begin(1000.0)
    limit.count_end(1001.0)
    limit.rest()
    assert limit.drain_s(5, 1060.0) == 1.0


def test_tokens_are_refused_with_what_waits_what_was_given_and_the_limit() -> None:
    limit = QueueLimit(100, 1000)
    limit.begin(0.0)
    limit.check_tokens(400, waiting=600, num_waiting=3, now=1.0)
    with pytest.raises(QueueFull) as refused:
        limit.check_tokens(401, waiting=600, num_waiting=3, now=1.0)
    assert str(refused.value) == (
        "600 prompt tokens wait, and this request has 401 or more; the limit is 1,000 (--max-num-waiting-tokens); "
        "try again in 1 s, or shorten the prompt"
    )
    assert refused.value.reason is ShedReason.WAITING_TOKENS


def test_a_prompt_beyond_the_limit_is_taken_behind_an_empty_queue() -> None:
    limit = QueueLimit(100, 1000)
    limit.check_tokens(5000, waiting=0, num_waiting=1, now=0.0)
    with pytest.raises(QueueFull):
        limit.check_tokens(5000, waiting=1, num_waiting=2, now=0.0)


def test_without_a_limit_of_tokens_none_is_refused() -> None:
    QueueLimit(100).check_tokens(10**9, waiting=10**9, num_waiting=100, now=0.0)


@pytest.mark.parametrize(("num_tokens", "expected_s"), [(251, 1.0), (300, 6.25), (625, 46.875), (5000, 93.75)])
def test_the_wait_is_for_the_tokens_that_are_too_many(num_tokens: int, expected_s: float) -> None:
    limit = QueueLimit(100, 1000)
    limit.begin(0.0)
    for second in range(8):  # one in 1.25 seconds; 75 wait, of ten tokens each
        limit.count_end(float(second))
    with pytest.raises(QueueFull) as refused:
        limit.check_tokens(num_tokens, waiting=750, num_waiting=75, now=10.0)
    assert refused.value.retry_after_s == pytest.approx(expected_s)


@given(st.lists(st.floats(0.0, 100.0)), st.integers(1, 10_000))
def test_it_stays_within_bounds(gaps: list[float], num_waiting: int) -> None:
    limit = QueueLimit(0)
    now = 0.0
    limit.begin(now)
    for gap in gaps:
        now += gap
        limit.count_end(now)
        assert 1.0 <= limit.drain_s(num_waiting, now) <= 120.0
