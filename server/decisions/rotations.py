"""Rotations of a choice's options: each is a question of its own, and their results are averaged.

Models prefer some places among the options. Over rotations that are evenly apart, every option stands in different
places. A predicate has no options, and the order of a scale's levels has a meaning; these have one rotation.
"""

import dataclasses
from collections.abc import Iterator, Sequence

from engine.errors import InvalidRequest
from engine.protocol import LabelMasses
from server.decisions.decision import Decision, Kind, Question

MAX_OPTION_ROWS = 1 << 14  # server and engine prepare all of them at a stretch, and other requests wait


def check_num_options(decision: Decision) -> None:
    """Raise InvalidRequest if all questions together have too many options, each counted in each of its rotations."""
    given = sum(_num_labels(question) for question in decision.questions)
    rotated = sum(
        _num_labels(question) * _num_rotations(question, decision.permutations) for question in decision.questions
    )
    if given > MAX_OPTION_ROWS:
        raise InvalidRequest(
            f"questions have {given:,} options and levels together; the limit is {MAX_OPTION_ROWS:,}; ask fewer "
            "questions in one request, or give them fewer options",
            param="questions",
        )
    if rotated > MAX_OPTION_ROWS:
        raise InvalidRequest(
            f"permutations is {decision.permutations}, so the questions have {rotated:,} options and levels in all "
            f"rotations together; the limit is {MAX_OPTION_ROWS:,}; ask for fewer permutations, or fewer questions in "
            "one request",
            param="permutations",
        )


def unrolled(decision: Decision) -> Decision:
    """Return the decision with a question for each rotation, in order."""
    if decision.permutations == 1:
        return decision
    questions = [
        dataclasses.replace(question, options=[*question.options[shift:], *question.options[:shift]])
        for question in decision.questions
        for shift in _shifts(question, decision.permutations)
    ]
    return dataclasses.replace(decision, questions=questions, permutations=1)


def averaged(decision: Decision, masses: Sequence[LabelMasses]) -> list[LabelMasses]:
    """Return the masses of the decision's questions. masses: of all rotations, in order."""
    if decision.permutations == 1:
        return [*masses]
    pending = iter(masses)
    return [
        _mean([(shift, next(pending)) for shift in _shifts(question, decision.permutations)])
        for question in decision.questions
    ]


def _shifts(question: Question, permutations: int) -> Iterator[int]:
    """Yield how many options stand after the others instead of before them, for each rotation."""
    num, rotations = len(question.options), _num_rotations(question, permutations)
    return (rotation * num // rotations for rotation in range(rotations))


def _num_rotations(question: Question, permutations: int) -> int:
    return min(permutations, len(question.options)) if question.kind is Kind.CHOICE else 1


def _num_labels(question: Question) -> int:
    return len(question.options) or 2  # yes and no


def _mean(rotated: Sequence[tuple[int, LabelMasses]]) -> LabelMasses:
    """Return the mean of each label's own probability. rotated: shifts, and masses by the rotated options."""
    if len(rotated) == 1:
        return rotated[0][1]
    num = len(rotated[0][1].probabilities)
    labels = [
        sum(each.probabilities[(option - shift) % num] * each.mass for shift, each in rotated) / len(rotated)
        for option in range(num)
    ]
    total = sum(labels)
    return LabelMasses([label / total for label in labels] if total else labels, total)
