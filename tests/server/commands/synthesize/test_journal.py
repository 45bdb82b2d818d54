"""Journals of a synthesis that belong to another run or are none."""

from contextlib import closing
from pathlib import Path

import pytest

from engine.errors import OptionError, StartupError
from server.commands.synthesize.journal import AnswerJournal, RunName
from server.jobs.answers import BodyAnswer
from tests.helpers.synthesis_requests import IDS, RUN

pytestmark = pytest.mark.fast


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("text\n")
    with pytest.raises(StartupError, match="is not the journal of a synthesis"):
        AnswerJournal(str(tmp_path / "a"), RUN)
    assert (tmp_path / "a").read_text() == "text\n"


def test_answers_of_another_run_are_not_mixed_with_these(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl.journal"
    other = RunName("other", 0)
    with closing(AnswerJournal(str(path), other)):
        pass  # without answers, nothing is lost
    with closing(AnswerJournal(str(path), RUN)) as journal:
        journal.add(IDS[0], BodyAnswer("", 200, b"{}"))
    before = path.read_bytes()
    for run in (other, RunName("mine", 1)):
        with pytest.raises(
            OptionError, match=rf"is of recipe mine with --seed 0, and {run} would replace its lines; na"
        ):
            AnswerJournal(str(path), run)
    assert path.read_bytes() == before
    with closing(AnswerJournal(str(path), RUN)) as journal:
        assert len(journal) == 1
    path.write_bytes(before.splitlines(keepends=True)[-1])
    with pytest.raises(OptionError, match="is of an unknown run, and recipe mine"):
        AnswerJournal(str(path), RUN)
