"""The law on planted curves: its intervals hold the truth as often as they claim, and noise is called noise."""

import math
import random
from collections.abc import Callable, Sequence

import pytest

from engine.errors import OptionError
from server.finetuning.scaling.power_law import PowerLaw, fit_power_law, student_quantile

pytestmark = pytest.mark.fast

PARTS = [100.0] * 4 + [200.0] * 2 + [400.0]  # quarters, halves and the whole of a file


def planted(exponent: float, amplitude: float) -> Callable[[float], float]:
    return lambda size: 1.5 + amplitude * (size / PARTS[-1]) ** -exponent


def draw(curve: Callable[[float], float], noise: float, seed: int, sizes: Sequence[float] = PARTS) -> PowerLaw:
    generator = random.Random(seed)
    return fit_power_law([(size, curve(size) + generator.gauss(0, noise)) for size in sizes])


def test_a_curve_without_noise_is_found() -> None:
    law = draw(planted(0.4, 0.3), 0.0, seed=0)
    assert law.exponent == pytest.approx(0.4, abs=0.002)
    assert law.loss == pytest.approx(1.8, abs=1e-4)
    assert law.loss - law.gain == pytest.approx(planted(0.4, 0.3)(800), abs=1e-4)
    assert not law.is_noise


@pytest.mark.parametrize(("exponent", "noise"), [(0.3, 0.005), (0.5, 0.01), (1.0, 0.01)])
def test_intervals_hold_the_truth_in_about_95_of_100_draws(exponent: float, noise: float) -> None:
    curve = planted(exponent, 0.3)
    laws = [draw(curve, noise, seed) for seed in range(100)]
    gain, further = curve(400) - curve(800), random.Random(-1)
    of_exponent = sum(law.exponent_interval[0] <= exponent <= law.exponent_interval[1] for law in laws)
    of_gain = sum(law.gain_interval[0] <= gain <= law.gain_interval[1] for law in laws)
    of_next = sum(law.next_loss[0] <= curve(800) + further.gauss(0, noise) <= law.next_loss[1] for law in laws)
    assert all(90 <= count <= 99 for count in (of_exponent, of_gain, of_next)), (of_exponent, of_gain, of_next)


def test_a_flat_curve_is_in_the_noise_in_at_least_95_of_100_draws() -> None:
    laws = [draw(lambda _: 2.0, 0.01, seed) for seed in range(100)]
    assert sum(law.is_noise for law in laws) >= 95


def test_a_clear_gain_and_a_clear_loss_are_not_called_noise() -> None:
    assert all(not draw(planted(0.5, 0.3), 0.01, seed).is_noise for seed in range(50))
    worse = [draw(planted(0.5, -0.3), 0.01, seed) for seed in range(50)]
    assert all(not law.is_noise and law.gain_interval[1] < 0 for law in worse)


def test_losses_that_fall_ever_faster_have_the_exponent_of_a_logarithm() -> None:
    law = draw(lambda size: 2.0 - 0.1 * (size / 400) ** 2, 0.001, seed=0)
    assert law.exponent == 0.0
    assert 0.03 < law.gain < 0.08  # between the two doublings that were tried: 0.019 and 0.075


def test_an_exponent_that_no_loss_bounds_ends_at_infinity() -> None:
    law = draw(lambda size: 2.0 if size > 100 else 2.5, 0.01, seed=0)
    assert law.exponent_interval[1] == math.inf
    assert law.is_noise


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([(1, 2.0), (2, 1.9), (4, 1.8)], "3 losses at 3 different sizes are given; .* at least 4 at 3"),
        ([(1, 2.0), (1, 2.1), (2, 1.9), (2, 1.8)], "4 losses at 2 different sizes"),
        ([(0, 2.0), (1, 2.0), (2, 1.9), (4, 1.8)], "a loss of 2 at size 0"),
        ([(1, math.nan), (1, 2.0), (2, 1.9), (4, 1.8)], "a loss of nan at size 1"),
    ],
)
def test_points_that_no_law_can_be_fitted_to_are_refused(points: list[tuple[float, float]], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        fit_power_law(points)


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (30, 2.042)])
def test_the_quantile_is_that_of_students_tables(freedom: int, quantile: float) -> None:
    assert student_quantile(freedom) == pytest.approx(quantile, abs=5e-4)
