"""Predictions from the last requests: when an answer ends, and how far a prediction is to be trusted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.client.queue.recent_requests import Calibration, OutputLengths

pytestmark = pytest.mark.fast


def _lengths(*lengths: int) -> OutputLengths:
    known = OutputLengths()
    for length in lengths:
        known.add(length)
    return known


def test_answers_of_one_length_end_there() -> None:
    lengths = _lengths(*[64] * 20)
    assert [lengths.probability_of_end(60, more, 1000) for more in (3, 4)] == [0.0, 1.0]
    assert lengths.mean(1000) == 64


def test_what_has_gone_on_for_longer_than_some_is_judged_by_the_others() -> None:
    lengths = _lengths(*[10] * 10, *[100] * 10)
    assert lengths.probability_of_end(0, 50, 1000) == 0.5
    assert lengths.probability_of_end(20, 50, 1000) == 0.0


def test_the_limit_of_a_request_ends_it() -> None:
    lengths = _lengths(*[100] * 20)
    assert lengths.probability_of_end(10, 20, 30) == 1.0
    assert lengths.mean(30) == 30


def test_what_is_longer_than_all_goes_on_for_a_while() -> None:
    lengths = _lengths(*[10] * 20)
    assert 0 < lengths.probability_of_end(500, 16, 10_000) < 0.1


def test_a_first_guess_is_bounded_by_the_limit() -> None:
    assert OutputLengths().mean(10_000) == 64
    assert OutputLengths().mean(50) == 50
    assert OutputLengths().probability_of_end(0, 16, 10_000) == 0.25


def test_the_first_answers_count_before_there_are_many() -> None:
    assert _lengths(200, 200, 300).mean(10_000) == (700 + 5 * 64) / 8
    assert _lengths(200, 200, 300).mean(100) == (300 + 5 * 64) / 8


@given(
    st.lists(st.integers(0, 500), min_size=8, max_size=600),
    st.integers(0, 500),
    st.integers(1, 600),
    st.lists(st.integers(0, 1000), min_size=2),
)
def test_probabilities_grow_with_the_horizon_and_only_the_last_answers_count(
    lengths: list[int], length: int, limit: int, horizons: list[int]
) -> None:
    known = _lengths(*lengths)
    assert known._sorted == sorted(lengths[-256:])
    chances = [known.probability_of_end(length, horizon, limit) for horizon in sorted(horizons)]
    assert chances == sorted(chances)
    assert all(0.0 <= chance <= 1.0 for chance in chances)
    assert known.mean(limit) == pytest.approx(sum(min(each, limit) for each in lengths[-256:]) / len(lengths[-256:]))


def test_nine_of_ten_of_the_last_came_no_later() -> None:
    calibration = Calibration()
    for number in range(1000):
        calibration.learn(2.0, 2.0 * (1 + number % 10 / 10))
    assert calibration.factor == pytest.approx(1.9)


def test_some_caution_comes_before_any_knowledge() -> None:
    calibration = Calibration()
    for _ in range(7):
        assert calibration.factor == 1.25
        calibration.learn(1.0, 1.0)
    calibration.learn(1.0, 1.0)
    assert calibration.factor == 1.0


def test_single_steps_say_nothing() -> None:
    calibration = Calibration()
    for _ in range(100):
        calibration.learn(0.01, 1.0)
    assert calibration.factor == 1.25


@given(st.lists(st.floats(0.0, 1e6), min_size=1, max_size=400))
def test_it_stays_within_bounds_and_forgets(real_s: list[float]) -> None:
    calibration = Calibration()
    for each in real_s:
        calibration.learn(1.0, each)
        assert 0.5 <= calibration.factor <= 4.0
    assert calibration._sorted == sorted(real_s[-128:])
