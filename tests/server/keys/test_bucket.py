"""Token buckets: no more in any minute than the limit and its burst, with exact waits and refunds that are no gifts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.keys.bucket import Hold, TokenBucket

pytestmark = pytest.mark.fast

MINUTE_S = 60.0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _bucket(per_minute: float = 60.0) -> tuple[TokenBucket, Clock]:
    clock = Clock()
    return TokenBucket(per_minute, clock), clock


def test_it_begins_full_and_fills_by_the_rate() -> None:
    bucket, clock = _bucket()
    assert all(bucket.take(1) for _ in range(60))
    assert not bucket.take(1)
    assert bucket.wait_s(1) == pytest.approx(1.0)
    assert bucket.full_in_s == pytest.approx(60.0)
    clock.now += 0.99
    assert not bucket.take(1)
    clock.now += 0.011
    assert bucket.take(1)
    clock.now += 3600
    assert bucket.level == 60
    assert bucket.full_in_s == 0


def test_what_was_held_and_not_used_comes_back() -> None:
    bucket, _ = _bucket()
    held = bucket.hold(50)
    assert held is not None
    assert bucket.hold(20) is None
    bucket.settle(held, used=10)
    assert bucket.level == 50


def test_what_the_level_made_up_for_does_not_come_back_again() -> None:
    bucket, clock = _bucket()
    held = bucket.hold(60)
    assert held is not None
    clock.now += 45  # the level is 45; had nothing been taken it would be 60
    bucket.settle(held, used=0)
    assert bucket.level == pytest.approx(60)
    held = bucket.hold(60)
    assert held is not None
    clock.now += 60
    assert bucket.take(60)
    bucket.settle(held, used=0)
    assert bucket.level == pytest.approx(0)


def test_more_used_than_held_is_a_debt() -> None:
    bucket, clock = _bucket()
    held = bucket.hold(60)
    assert held is not None
    bucket.settle(held, used=90)
    assert bucket.level == -30
    assert bucket.wait_s(1) == pytest.approx(31)
    clock.now += 31
    assert bucket.take(1)


def test_another_rate_keeps_what_was_taken() -> None:
    bucket, _ = _bucket(60)
    assert bucket.take(50)
    bucket.change_rate(100)
    assert bucket.level == 50
    bucket.change_rate(20)
    assert bucket.level == 20
    assert bucket.wait_s(20) == 0


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.floats(0, 90)),
        st.tuples(st.just("hold"), st.floats(0, 1)),
        st.tuples(st.just("take"), st.floats(0, 1)),
        st.tuples(st.just("settle"), st.floats(0, 1)),
    ),
    max_size=60,
)


@given(st.sampled_from([1.0, 60.0, 1000.0]), _STEPS)
def test_in_no_minute_more_is_used_than_the_limit_and_its_burst(limit: float, steps: list[tuple[str, float]]) -> None:
    bucket, clock = _bucket(limit)
    used: list[tuple[float, float]] = []  # when taken, and how much of it was used
    held: list[tuple[float, Hold]] = []
    for step, number in steps:
        if step == "wait":
            clock.now += number
        elif step == "take" and bucket.take(number * limit):
            used.append((clock.now, number * limit))
        elif step == "hold" and (each := bucket.hold(number * limit)) is not None:
            held.append((clock.now, each))
        elif step == "settle" and held:
            taken_s, each = held.pop(0)
            bucket.settle(each, each.amount * number)
            used.append((taken_s, each.amount * number))
        bucket.check()
    used += [(taken_s, each.amount) for taken_s, each in held]
    for first_s, _ in used:
        in_a_minute = sum(amount for at_s, amount in used if first_s <= at_s < first_s + MINUTE_S)
        assert in_a_minute <= 2 * limit * (1 + 1e-9) + 1e-6


@given(_STEPS)
def test_the_wait_that_is_told_is_enough_and_not_too_long(steps: list[tuple[str, float]]) -> None:
    bucket, clock = _bucket()
    for step, number in steps:
        if step == "wait":
            clock.now += number
        else:
            bucket.take(number * 60)
        wait_s = bucket.wait_s(30)
        if wait_s > 0:
            clock.now += wait_s * 0.99
            assert bucket.level < 30
            clock.now += wait_s * 0.01 + 1e-6
        assert bucket.level >= 30
