"""Everyday questions: none is replayed, and what an adapter has lost is told from chance."""

import pytest

from benchmarks.finetuning.everyday import CAPITALS, EVERYDAY, compared, is_right, num_same, sign_test
from server.finetuning.job_files import REPLAY_PROMPTS

pytestmark = pytest.mark.fast


def test_no_question_is_one_that_fine_tuning_replays() -> None:
    asked = [question.lower().rstrip("?.") for question in (*EVERYDAY, *CAPITALS)]
    replayed = [question.lower().rstrip("?.") for question in REPLAY_PROMPTS.read_text().splitlines()]
    assert len(set(asked)) == len(asked)
    assert len(set(replayed)) == len(replayed)
    assert not set(asked) & set(replayed)


def test_an_answer_is_right_by_whole_words() -> None:
    assert is_right("It is a Dog.", ("dogs?",))
    assert is_right("Dogs bark.", ("dogs?",))
    assert not is_right("Dogma", ("dogs?",))
    assert is_right("In the Central Processing Unit", ("central processing",))


@pytest.mark.parametrize(
    ("lost", "gained", "p"),
    [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 2 / 2**5), (0, 5, 2 / 2**5), (3, 3, 1.0), (5, 1, 14 / 64), (9, 1, 22 / 1024)],
)
def test_a_sign_test_is_exact_and_two_sided(lost: int, gained: int, p: float) -> None:
    assert sign_test(lost, gained) == pytest.approx(p)


def test_answers_are_compared_with_the_bases_one_by_one() -> None:
    questions = {str(number): ("yes",) for number in range(4)}
    base = ["yes", "yes", "no", "no"]
    assert compared(questions, [base, base, ["no", "Yes!", "yes", "no way"]]) == [
        "2",
        "2 (lost 0, gained 0; p = 1.00)",
        "2 (lost 1, gained 1; p = 1.00)",
    ]
    assert num_same([base, base, ["no", "Yes!", "yes", "no way"]]) == ["", "4", "0"]
