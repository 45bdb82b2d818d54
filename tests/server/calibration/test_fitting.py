"""Fits of probabilities to known answers: they find the numbers behind them, and are measured on held-out inputs."""

import dataclasses
import math
import random
from collections.abc import Sequence

import pytest

from server.calibration.calibration import Platt, Temperature, log_odds, sigmoid
from server.calibration.fitting import KnownAnswer, TooFewAnswers, calibrate_kind, fit, measure

pytestmark = pytest.mark.fast


def _predicates(
    num: int, *, slope: float, intercept: float, name: str | None = None, seed: int = 0
) -> list[KnownAnswer]:
    """Answers that are true as often as the two numbers say."""
    draw = random.Random(seed)
    answers = []
    for number in range(num):
        logit = draw.gauss(0, 3)
        is_true = draw.random() < sigmoid(slope * logit + intercept)
        answers.append(
            KnownAnswer(f"{seed} {number}", name or None, [sigmoid(logit), sigmoid(-logit)], 0 if is_true else 1)
        )
    return answers


def _choices(num: int, temperature: float) -> list[KnownAnswer]:
    draw = random.Random(1)
    answers = []
    for number in range(num):
        weights = [math.exp(draw.gauss(0, 2)) for _ in range(5)]
        raw = [weight / sum(weights) for weight in weights]
        (right,) = draw.choices(range(5), Temperature(temperature).apply(raw))
        answers.append(KnownAnswer(str(number), None, raw, right))
    return answers


def test_platts_numbers_are_found_and_remove_the_calibration_error() -> None:
    found = calibrate_kind(_predicates(2000, slope=0.5, intercept=-1.0), is_predicate=True).overall
    assert isinstance(found.fit, Platt)
    assert (found.fit.slope, found.fit.intercept) == (pytest.approx(0.5, abs=0.05), pytest.approx(-1.0, abs=0.1))
    assert found.before.calibration_error > 0.15
    assert found.after.calibration_error < 0.04
    assert found.after.log_loss < found.before.log_loss


def test_platts_numbers_have_the_least_loss() -> None:
    answers = _predicates(300, slope=-0.3, intercept=2.0)
    found = fit(answers, is_predicate=True)
    assert isinstance(found, Platt)

    def gradient(weight: Sequence[float]) -> float:
        num_true = sum(answer.right == 0 for answer in answers)
        targets = {0: (num_true + 1) / (num_true + 2), 1: 1 / (len(answers) - num_true + 2)}
        errors = [found.apply(answer.probabilities)[0] - targets[answer.right] for answer in answers]
        return math.fsum(error * each for error, each in zip(errors, weight, strict=True))

    assert gradient([1.0] * 300) == pytest.approx(0, abs=1e-5)
    assert gradient([log_odds(answer.probabilities[0]) for answer in answers]) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("temperature", [0.3, 0.5, 1.0, 3.0, 20.0])
def test_the_temperature_has_the_least_loss(temperature: float) -> None:
    answers = _choices(300, temperature)
    found = fit(answers, is_predicate=False)
    assert isinstance(found, Temperature)

    def loss(fitted: Temperature) -> float:
        losses = []
        for answer in answers:
            logs = [math.log(each) for each in fitted.apply(answer.probabilities)]
            others = math.fsum(logs) - logs[answer.right]
            losses.append(-(301 * logs[answer.right] + others / 4) / 302)
        return math.fsum(losses)

    assert all(loss(found) < loss(Temperature(found.temperature * by)) for by in (0.2, 0.99, 1.01, 5.0))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_found(temperature: float) -> None:
    found = calibrate_kind(_choices(1000, temperature), is_predicate=False).overall
    assert isinstance(found.fit, Temperature)
    assert found.fit.temperature == pytest.approx(temperature, rel=0.1)
    assert found.after.calibration_error < 0.05
    assert found.after.accuracy == found.before.accuracy


@pytest.mark.parametrize(("least", "most"), [(0.5, 0.9), (0.95, 0.999), (0.9999, 1.0)])
def test_choices_that_are_all_right_stay_about_as_sure_as_their_number_says(least: float, most: float) -> None:
    draw = random.Random(2)
    sure = [draw.uniform(least, most) for _ in range(60)]
    answers = [KnownAnswer(str(n), None, [(1 - p) * 0.7, p, (1 - p) * 0.3], 1) for n, p in enumerate(sure)]
    found = fit(answers, is_predicate=False)
    after = [found.apply(answer.probabilities) for answer in answers]
    assert math.fsum(each[1] for each in after) / 60 == pytest.approx(61 / 62, abs=0.03)
    assert found.apply([0.45, 0.40, 0.15])[0] < 0.8


def test_choices_that_are_all_wrong_become_even() -> None:
    answers = [KnownAnswer(str(n), None, [0.6, 0.3, 0.1], 2) for n in range(60)]
    assert fit(answers, is_predicate=False).apply([0.6, 0.3, 0.1]) == pytest.approx([1 / 3] * 3, abs=0.01)


def test_choices_that_are_all_even_keep_their_probabilities() -> None:
    answers = [KnownAnswer(str(n), None, [0.5, 0.5], n % 2) for n in range(60)]
    assert fit(answers, is_predicate=False) == Temperature(1.0)


def test_answers_that_are_told_apart_perfectly_have_finite_numbers() -> None:
    answers = [KnownAnswer(str(n), None, [float(n % 2), float(1 - n % 2)], 1 - n % 2) for n in range(60)]
    found = fit(answers, is_predicate=True)
    assert isinstance(found, Platt)
    assert abs(found.slope) < 10
    assert found.apply([1.0, 0.0])[0] == pytest.approx(31 / 32, abs=1e-6)


def test_a_model_that_always_says_the_same_is_calibrated_to_the_share() -> None:
    answers = [KnownAnswer(str(n), None, [0.9, 0.1], 0 if n % 3 == 0 else 1) for n in range(60)]
    assert fit(answers, is_predicate=True).apply([0.9, 0.1])[0] == pytest.approx(1 / 3, abs=0.01)


def test_no_answer_is_measured_with_numbers_that_were_fitted_to_its_input() -> None:
    answers = [answer for n in range(12) for answer in _predicates(5, slope=1.0, intercept=0.0, seed=n)]
    answers = [KnownAnswer(str(n // 5), None, answer.probabilities, answer.right) for n, answer in enumerate(answers)]
    inputs = sorted({answer.input_id for answer in answers})
    held_out, right = [], []
    for fold in range(5):
        rest = [answer for answer in answers if inputs.index(answer.input_id) % 5 != fold]
        found = fit(rest, is_predicate=True)
        for answer in answers:
            if answer not in rest:
                held_out.append(found.apply(answer.probabilities))
                right.append(answer.right)
    after = calibrate_kind(answers, is_predicate=True).overall.after
    assert after.log_loss == pytest.approx(measure(held_out, right, is_predicate=True).log_loss, rel=1e-9)


def test_a_name_has_its_own_numbers_from_200_answers_on() -> None:
    answers = [
        *_predicates(200, slope=2.0, intercept=0.0, name="often", seed=1),
        *_predicates(199, slope=0.2, intercept=1.0, name="seldom", seed=2),
        *_predicates(60, slope=0.2, intercept=1.0, seed=3),
    ]
    found = calibrate_kind(answers, is_predicate=True)
    assert {name: each.num_answers for name, each in found.by_name.items()} == {"often": 200}
    assert found.overall.num_answers == 459
    own, other = found.fit("often"), found.fit("seldom")
    assert isinstance(own, Platt)
    assert own.slope == pytest.approx(2.0, abs=0.5)
    assert other == found.fit(None) == found.overall.fit != own


def test_an_answer_without_a_name_is_not_measured_with_the_numbers_of_an_empty_name() -> None:
    unnamed = _predicates(60, slope=-1.0, intercept=1.0, seed=3)
    named = _predicates(200, slope=2.0, intercept=0.0, seed=1)
    empty, full = (
        calibrate_kind([*(dataclasses.replace(each, name=name) for each in named), *unnamed], is_predicate=True)
        for name in ("", "often")
    )
    assert [*empty.by_name] == [""]
    assert empty.overall == full.overall


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        (_predicates(49, slope=1.0, intercept=0.0), "49 known answers are too few; at least 50"),
        ([KnownAnswer(str(n % 4), None, [0.5, 0.5], n % 2) for n in range(60)], "4 different inputs are too few"),
        ([KnownAnswer(str(n), None, [0.5, 0.5], 1) for n in range(60)], "all known answers are false"),
    ],
)
def test_answers_that_do_not_suffice_are_refused(answers: list[KnownAnswer], why: str) -> None:
    with pytest.raises(TooFewAnswers, match=why):
        calibrate_kind(answers, is_predicate=True)


def test_measures_of_predicates() -> None:
    found = measure([[0.8, 0.2], [0.85, 0.15], [0.3, 0.7]], [0, 1, 1], is_predicate=True)
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.brier_score == pytest.approx((0.2**2 + 0.85**2 + 0.3**2) / 3)
    assert found.log_loss == pytest.approx(-(math.log(0.8) + math.log(0.15) + math.log(0.7)) / 3)
    assert found.calibration_error == pytest.approx((abs(1.65 - 1) + 0.3) / 3)  # two bins


def test_measures_of_choices() -> None:
    found = measure([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]], [0, 1], is_predicate=False)
    assert found.accuracy == 0.5
    assert found.brier_score == pytest.approx((0.16 + 0.09 + 0.01 + 0.01 + 0.64 + 0.49) / 2)
    assert found.log_loss == pytest.approx(-(math.log(0.6) + math.log(0.2)) / 2)
    assert found.calibration_error == pytest.approx((0.4 + 0.7) / 2)


def test_probabilities_of_0_and_1_can_be_measured() -> None:
    found = measure([[1.0, 0.0], [0.0, 1.0]], [1, 1], is_predicate=True)
    assert found.calibration_error == pytest.approx(0.5)
    assert found.log_loss == pytest.approx(-math.log(1e-6) / 2)
