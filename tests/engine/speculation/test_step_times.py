"""StepTimes: estimates, and measurements that contradict them, disturb them or replace them."""

import pytest

from engine.speculation.step_times import StepTimes

pytestmark = pytest.mark.fast


def _times(*measured: tuple[int, float], repeats: int = 3) -> StepTimes:
    """Steps of one sequence: (rows, seconds)."""
    times = StepTimes()
    for rows, seconds in measured:
        for _ in range(repeats):
            times.observe(1, rows, seconds)
    return times


def test_what_is_measured_is_estimated() -> None:
    times = _times((1, 0.010), (4, 0.013))
    assert times.estimate(1, 1) == pytest.approx(0.010, rel=0.02)
    assert times.estimate(1, 4) == pytest.approx(0.013, rel=0.02)
    assert times.estimate(2, 2) == 0.0  # another band


def test_a_number_of_rows_is_known_when_it_was_measured_twice() -> None:
    times = _times((1, 0.010), repeats=1)
    assert not times.knows(1, 1)
    times.observe(1, 1, 0.010)
    assert times.knows(1, 1)
    assert not times.knows(1, 2)


def test_a_disturbed_first_measurement_is_outlived_by_the_second() -> None:
    times = _times((1, 0.010))
    times.observe(1, 3, 0.090)
    times.observe(1, 3, 0.012)
    assert times.estimate(1, 3) == pytest.approx(0.012, rel=0.02)


def test_a_disturbed_measurement_is_contradicted_by_more_rows_that_took_less() -> None:
    times = _times((1, 0.010))
    times.observe(1, 3, 0.090)
    times.observe(1, 5, 0.013)
    assert times.estimate(1, 3) <= 0.013
    assert times.estimate(1, 1) <= times.estimate(1, 3) <= times.estimate(1, 5)


def test_single_pauses_of_the_machine_are_not_learned() -> None:
    times = _times((1, 0.010), repeats=10)
    for _ in range(5):
        times.observe(1, 1, 0.200)
    assert times.estimate(1, 1) == pytest.approx(0.010)
    assert times.mean(1, 1) > 0.07  # but reported


def test_a_lasting_change_is_learned_within_eight_steps() -> None:
    times = _times((1, 0.010), repeats=100)
    for _ in range(8):
        times.observe(1, 1, 0.020)
    assert times.estimate(1, 1) == pytest.approx(0.020)


def test_after_a_long_time_a_new_measurement_replaces_most_old_ones() -> None:
    times = _times((1, 0.010), repeats=20)
    times.observe(1, 2, 0.050)
    for _ in range(120):
        times.observe(1, 2, 0.030)
    times.observe(1, 1, 0.025)
    times.observe(1, 1, 0.025)
    assert times.estimate(1, 1) == pytest.approx(0.025)


def test_an_old_measurement_decays_to_the_optimistic_estimate_and_is_reported_as_it_was() -> None:
    times = _times((1, 0.010), (4, 0.100))
    for _ in range(2000):
        times.age()
    assert times.estimate(1, 4) < 0.012
    assert times.mean(1, 4) == pytest.approx(0.100)


def test_a_single_measurement_decays_sooner() -> None:
    sure, unsure = _times((1, 0.010), (4, 0.100)), _times((1, 0.010), (4, 0.100), repeats=1)
    for _ in range(100):
        sure.age()
        unsure.age()
    assert unsure.estimate(1, 4) < 0.03 < sure.estimate(1, 4)


def test_rows_between_and_beyond_are_estimated_below_the_line() -> None:
    times = _times((1, 0.010), (5, 0.030))
    assert times.estimate(1, 3) == pytest.approx((0.010 + 0.020) / 2, rel=0.02)
    assert times.estimate(1, 8) == pytest.approx((0.030 + 0.045) / 2, rel=0.02)


def test_no_row_is_estimated_cheaper_than_in_a_prefill() -> None:
    times = _times((1, 0.010))
    times.observe_prefill(100, 0.200)
    assert times.estimate(1, 16) >= 0.032
