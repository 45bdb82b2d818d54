"""StepDelays: what one step in a hundred exceeds, over what was expected."""

import random

import pytest

from engine.scheduling.step_delays import StepDelays

pytestmark = pytest.mark.fast


def observe(delays: StepDelays, num_steps: int, late_part: float, late: float) -> int:
    """Steps that take what was expected, give or take a little, and some that are late; returns how many exceeded."""
    source, num_over = random.Random(1), 0
    for _ in range(num_steps):
        ratio = late if source.random() < late_part else source.uniform(0.95, 1.04)
        num_over += ratio > delays.factor
        delays.observe(ratio)
    return num_over


def test_where_steps_take_what_was_expected_the_factor_is_little_above_one() -> None:
    delays = StepDelays()
    observe(delays, 500, 0.0, 1.0)
    assert delays.factor == pytest.approx(1.05)


@pytest.mark.parametrize("late", [1.2, 1.4])
def test_about_one_step_in_a_hundred_exceeds_the_factor(late: float) -> None:
    delays = StepDelays()
    observe(delays, 1000, 0.05, late)
    assert delays.factor == pytest.approx(late, abs=0.05)
    assert 10 <= observe(delays, 2000, 0.05, late) <= 40


def test_rare_exceptions_matter_little_and_are_forgotten() -> None:
    delays = StepDelays()
    observe(delays, 500, 0.0, 1.0)
    delays.observe(30.0)
    assert delays.factor < 1.1
    observe(delays, 100, 0.0, 1.0)
    assert delays.factor == pytest.approx(1.05)


def test_the_factor_is_bounded_where_nothing_is_as_expected() -> None:
    delays = StepDelays()
    observe(delays, 1000, 1.0, 100.0)
    assert delays.factor == 1.5
