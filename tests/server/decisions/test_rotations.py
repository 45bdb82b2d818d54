"""Rotations of options: a preference for a place among them is averaged away."""

import pytest

from engine.errors import InvalidRequest
from engine.protocol import LabelMasses
from server.decisions.decision import Decision, Kind, LabelOption, Question
from server.decisions.rotations import averaged, check_num_options, unrolled

pytestmark = pytest.mark.fast


def _decision(num_options: int, permutations: int, kind: Kind = Kind.CHOICE) -> Decision:
    options = [LabelOption(str(number)) for number in range(num_options)]
    return Decision("", [Question(kind, "", "questions[0]", options)], 0.0, permutations)


def _orders(decision: Decision) -> list[str]:
    return ["".join(option.text for option in question.options) for question in unrolled(decision).questions]


def test_rotations_are_evenly_apart_and_at_most_one_for_each_option() -> None:
    assert _orders(_decision(6, 3)) == ["012345", "234501", "450123"]
    assert _orders(_decision(5, 2)) == ["01234", "23401"]
    assert _orders(_decision(3, 16)) == ["012", "120", "201"]


@pytest.mark.parametrize("kind", [Kind.SCORE, Kind.PREDICATE])
def test_only_choices_are_rotated(kind: Kind) -> None:
    assert _orders(_decision(2, 4, kind)) == ["01"]


def test_a_preference_for_a_place_is_averaged_away() -> None:
    decision = _decision(3, 3)
    by_place = [0.7, 0.2, 0.1]
    (mean,) = averaged(decision, [LabelMasses(by_place, 0.5)] * 3)
    assert mean.probabilities == pytest.approx([1 / 3] * 3)
    assert mean.mass == pytest.approx(0.5)


def test_each_option_keeps_its_own_probability() -> None:
    decision = _decision(4, 2)
    by_option = [0.1, 0.2, 0.3, 0.4]
    rotated = [LabelMasses([by_option[int(text)] for text in order], 0.8) for order in _orders(decision)]
    (mean,) = averaged(decision, rotated)
    assert mean.probabilities == pytest.approx(by_option)


def test_a_rotation_counts_by_its_mass() -> None:
    (mean,) = averaged(_decision(2, 2), [LabelMasses([1.0, 0.0], 0.6), LabelMasses([0.0, 0.0], 0.0)])
    assert (mean.probabilities, mean.mass) == (pytest.approx([1, 0]), pytest.approx(0.3))
    (none,) = averaged(_decision(2, 2), [LabelMasses([0.0, 0.0], 0.0)] * 2)
    assert (none.probabilities, none.mass) == ([0.0, 0.0], 0.0)


def _check(num_questions: int, num_options: int, permutations: int) -> None:
    one = _decision(num_options, permutations)
    check_num_options(Decision("", [*one.questions] * num_questions, 0.0, permutations))


def test_options_of_all_rotations_together_are_limited() -> None:
    for accepted in ((400, 40, 1), (400, 6, 16), (64, 255, 1), (4, 255, 16)):
        _check(*accepted)
    for *refused, given, param in ((400, 255, 16, "102,000", "questions"), (5, 255, 16, "20,400", "permutations")):
        with pytest.raises(InvalidRequest, match=f"{given} options .* the limit is 16,384") as raised:
            _check(*refused)
        assert raised.value.param == param
