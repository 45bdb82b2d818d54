"""The mailbox between a job's process and its server."""

import dataclasses
from pathlib import Path

import pytest

from engine.command_io.finetuning import mailbox
from engine.command_io.finetuning.graders.definitions import ScoreSampling
from engine.command_io.finetuning.graders.faults import FaultKind, GradingFault
from engine.command_io.finetuning.graders.grading import ScoreAnswer, ScoreQuestion
from engine.command_io.finetuning.job import JobFolder
from engine.command_io.finetuning.mailbox import Mail, asker, read_questions, write_answers

pytestmark = pytest.mark.fast

QUESTION = ScoreQuestion("tiny", [{"role": "user", "content": "How good?"}], 0.0, 1.0, ScoreSampling(seed=3))
ANSWERS = [ScoreAnswer("0.5"), ScoreAnswer(fault=GradingFault(FaultKind.MODEL_SERVER, "gone"))]


def test_what_is_asked_is_answered(tmp_path: Path) -> None:
    folder, seen = JobFolder(tmp_path), []

    def answer(_: float) -> None:
        asked = read_questions(folder, ScoreQuestion)
        assert asked is not None
        seen.append(asked)
        if len(seen) > 1:
            write_answers(folder, Mail(asked.id, ANSWERS))

    ask_all = asker(folder, sleep=answer)
    assert ask_all([QUESTION, QUESTION]) == ANSWERS
    assert [each.items for each in seen] == [[QUESTION, QUESTION]] * 2
    assert list(tmp_path.iterdir()) == []


def test_answers_to_questions_of_a_process_that_is_gone_are_not_taken(tmp_path: Path) -> None:
    folder, waited = JobFolder(tmp_path), []
    write_answers(folder, Mail("earlier", [ScoreAnswer("1")]))
    assert read_questions(folder, ScoreQuestion) is None

    def answer(_: float) -> None:
        waited.append(1)
        asked = read_questions(folder, ScoreQuestion)
        assert asked is not None
        write_answers(folder, Mail(asked.id if len(waited) > 2 else "earlier", ANSWERS[:1]))

    assert asker(folder, sleep=answer)([QUESTION]) == ANSWERS[:1]
    assert len(waited) == 3


@pytest.mark.parametrize(("name", "limit"), [("_MAX_QUESTIONS", 2), ("_MAX_CHARACTERS", 2 * len("How good?"))])
def test_many_questions_are_asked_part_by_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, limit: int
) -> None:
    monkeypatch.setattr(mailbox, name, limit)
    folder, sizes = JobFolder(tmp_path), []

    def answer(_: float) -> None:
        asked = read_questions(folder, ScoreQuestion)
        assert asked is not None
        sizes.append(len(asked.items))
        write_answers(folder, Mail(asked.id, [ScoreAnswer(str(each.high)) for each in asked.items]))

    found = asker(folder, sleep=answer)([dataclasses.replace(QUESTION, high=float(number)) for number in range(5)])
    assert [each.text for each in found] == ["0.0", "1.0", "2.0", "3.0", "4.0"]
    assert sizes == [2, 2, 1]
    assert list(tmp_path.iterdir()) == []
