"""How far a prediction is to be trusted follows from those before it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.client.queue.recent_requests import Calibration

pytestmark = pytest.mark.fast


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
