"""The files of the measurement of small files: different facts, and larger files begin as smaller ones."""

from benchmarks.finetuning.everyday import is_right
from benchmarks.finetuning.few_lines import _SHOP, _lines


def test_a_hundred_lines_have_different_questions_and_answers() -> None:
    lines = _lines(100)

    assert len({question for question, _ in lines}) == len({answer for _, answer in lines}) == 100
    assert lines[:12] == _lines(12) == [(line[0], line[1]) for line in _SHOP]


def test_the_answers_of_the_file_are_right_answers_to_the_same_question_in_other_words() -> None:
    assert all(is_right(answer, [word]) for _, answer, _, word in _SHOP)
