"""Scores and results of moderations, for all masses and thresholds."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.protocol import LabelMasses
from server.moderations.categories import NOTHING, Category, Findings, category_scores_of
from server.moderations.openai_form import moderation_result

pytestmark = pytest.mark.fast

LABELS = st.lists(st.frozensets(st.sampled_from(Category), max_size=3), min_size=1, max_size=6)


@st.composite
def answered(draw: st.DrawFn) -> tuple[Findings, LabelMasses]:
    labels = draw(LABELS)
    weights = [draw(st.floats(0.001, 1)) for _ in labels]
    return labels, LabelMasses([weight / sum(weights) for weight in weights], draw(st.floats(0.01, 1)))


def _naive(questions: Sequence[tuple[Findings, LabelMasses]], category: Category) -> float | None:
    sums = []
    for labels, masses in questions:
        if any(category in label for label in labels):
            sums.append(sum(masses.probabilities[number] for number, label in enumerate(labels) if category in label))
    return max(sums, default=None)


@given(st.lists(answered(), max_size=5), st.floats(0.000001, 1))
def test_a_result_is_consistent(questions: list[tuple[Findings, LabelMasses]], threshold: float) -> None:
    scores = category_scores_of([labels for labels, _ in questions], [masses for _, masses in questions])
    result = moderation_result(scores, threshold)
    names = [category.value for category in Category]
    for table in (result.categories, result.category_scores, result.category_applied_input_types):
        assert [*table] == names
    for category in Category:
        score = result.category_scores[category]
        expected = _naive(questions, category)
        assert score == pytest.approx(expected or 0.0)
        assert 0 <= score <= 1
        assert result.categories[category] is (score >= threshold)
        assert result.category_applied_input_types[category] == ([] if expected is None else ["text"])
    assert result.flagged is any(score >= threshold for score in result.category_scores.values())


def test_the_most_suspicious_question_counts() -> None:
    questions = [(frozenset({Category.HATE, Category.VIOLENCE}), NOTHING), (frozenset({Category.HATE}), NOTHING)]
    masses = [LabelMasses([0.2, 0.8], 1.0), LabelMasses([0.7, 0.3], 1.0)]
    assert category_scores_of(questions, masses) == {Category.HATE: 0.7, Category.VIOLENCE: 0.2}
