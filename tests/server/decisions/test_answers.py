"""Confidences, as TypeSafe publishes them, and the wording's labels."""

import pytest

from server.decisions.decision import Kind, LabelOption, Question, choice_confidence, mean_level, score_confidence
from server.decisions.wording import reads_alike, word

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("probabilities", "confidence"), [([0.25] * 4, 0.0), ([1.0, 0.0], 1.0), ([0.7, 0.2, 0.1], 0.55)]
)
def test_confidence_of_a_choice_is_the_distance_from_an_even_split(
    probabilities: list[float], confidence: float
) -> None:
    assert choice_confidence(probabilities) == pytest.approx(confidence)


def test_confidence_is_never_below_0() -> None:
    shares = [1 / sum([1 / 49] * 49) / 49] * 49  # as floats, 49 times one is less than 1
    assert 49 * shares[0] < 1
    assert choice_confidence(shares) == 0


@pytest.mark.parametrize(
    ("probabilities", "score", "confidence"),
    [
        ([0.0, 0.0, 1.0], 2.0, 1.0),
        ([0.1, 0.8, 0.1], 1.0, 0.7),  # the spread is 0.2, that of an even one 2/3
        ([0.5, 0.0, 0.5], 1.0, 0.0),
        ([0.2] * 5, 2.0, 0.0),
    ],
)
def test_a_score_is_the_mean_and_its_confidence_falls_with_the_spread(
    probabilities: list[float], score: float, confidence: float
) -> None:
    assert mean_level(probabilities) == pytest.approx(score)
    assert score_confidence(probabilities) == pytest.approx(confidence)


def _choice(*values: str | bool) -> Question:
    return Question(Kind.CHOICE, "Which?", "questions[0]", [LabelOption(value) for value in values])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (("yes", "no"), False),
        ((True, "true"), True),
        ((True, False), False),
        (("Yes", "yes"), True),
        (("a  b", "a b "), True),
        (("low", "low-medium"), False),
    ],
)
def test_options_that_read_alike_are_found(values: tuple[str | bool, ...], expected: bool) -> None:
    assert reads_alike(_choice(*values)) is expected


def test_labels_are_the_options_texts_with_either_case_of_the_first_letter() -> None:
    worded = word(_choice("billing", "Sales team", "7", True), is_numbered=False)
    assert worded.labels == [("billing", "Billing"), ("Sales team", "sales team"), ("7",), ("true", "True")]
    assert "billing\nSales team\n7\ntrue\n" in worded.text


def test_numbered_options_show_their_types() -> None:
    worded = word(_choice(True, "true"), is_numbered=True)
    assert worded.labels == [("1",), ("2",)]
    assert '1. true\n2. "true"\n' in worded.text
