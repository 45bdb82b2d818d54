"""StepDelays: what one step in a hundred exceeds, over what was expected."""

import random

import pytest

from engine.scheduling.step_delays import StepDelays

pytestmark = pytest.mark.fast


def observe(delays: StepDelays, num_steps: int, late_part: float, late: float) -> int:
    """Steps that take what was expected, give or take a little, and some that are late; returns how many exceeded."""
    source, num_over = random.Random(1), 0
    for _ in range(num_steps):
        ratio = late * source.uniform(0.9, 1.1) if source.random() < late_part else source.uniform(0.95, 1.04)
        num_over += ratio > delays.factor
        delays.observe(ratio)
    return num_over


def test_where_steps_take_what_was_expected_the_factor_is_little_above_one() -> None:
    delays = StepDelays()
    observe(delays, 500, 0.0, 1.0)
    assert delays.factor == 1.05


@pytest.mark.parametrize("late", [1.2, 1.35])
def test_about_one_step_in_a_hundred_exceeds_the_factor(late: float) -> None:
    delays = StepDelays()
    observe(delays, 500, 0.05, late)
    assert late <= delays.factor <= 1.1 * late
    assert 10 <= observe(delays, 2000, 0.05, late) <= 40


def test_exceptions_do_not_count() -> None:
    delays = StepDelays()
    delays.observe(30.0)
    assert delays.factor == 1.1, "nothing is known of others"
    observe(delays, 300, 0.0, 1.0)
    delays.observe(30.0)
    assert delays.factor == 1.05


def test_what_was_late_is_forgotten_soon() -> None:
    delays = StepDelays()
    observe(delays, 500, 0.1, 1.4)
    assert delays.factor > 1.3
    observe(delays, 200, 0.0, 1.0)
    assert delays.factor == 1.05


def test_the_factor_is_bounded_where_nothing_is_as_expected() -> None:
    delays = StepDelays()
    observe(delays, 1000, 1.0, 100.0)
    assert delays.factor == 1.5
