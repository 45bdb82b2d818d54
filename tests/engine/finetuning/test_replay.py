"""Replayed answers: generated once for a job, and never taken for those of another one."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.command_io.finetuning.items import Passage, TrainingItem, write_rows
from engine.command_io.finetuning.job import JobFolder
from engine.errors import StartupError
from engine.finetuning import replay


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Number of prompts and tokens of each time that the base answers; it answers with the number of that time."""
    calls: list[tuple[int, int]] = []

    def generate(_: object, prompts: Sequence[object], __: object, max_tokens: int, **___: object) -> list[list[int]]:
        calls.append((len(prompts), max_tokens))
        return [[len(calls)]] * len(prompts)

    monkeypatch.setattr(replay, "generate", generate)
    return calls


def _found(folder: JobFolder, digest: str, wanted: int, max_position: int = 100) -> replay.ReplayedAnswers:
    decoder = SimpleNamespace(spec=SimpleNamespace(max_position=max_position))
    lora = SimpleNamespace(is_adapted=True)
    return replay.replayed_answers(folder, digest, lora, decoder, [], wanted, 0, lambda *_: None)  # type: ignore[arg-type]


def _answers(folder: JobFolder, digest: str = "a", wanted: int = 3, max_position: int = 100) -> list[TrainingItem]:
    return _found(folder, digest, wanted, max_position).pool


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    folder = JobFolder(tmp_path)
    write_rows(folder.prompts, [Passage([5, 6, 7]), Passage([8, 9])])
    return folder


def test_answers_are_generated_once_for_a_job(folder: JobFolder, asked: list[tuple[int, int]]) -> None:
    first = _answers(folder)
    assert [item.passages[0] for item in first][:2] == [Passage([5, 6, 7, 1], [(3, 4)]), Passage([8, 9, 1], [(2, 3)])]
    assert _answers(folder) == first
    assert asked == [(2, 32), (1, 32)]  # the first question again, with another answer


def test_the_last_questions_are_held_out(tmp_path: Path, asked: list[tuple[int, int]]) -> None:
    folder = JobFolder(tmp_path)
    write_rows(folder.prompts, [Passage([number]) for number in range(8)])
    found = _found(folder, "a", 7)

    assert [item.passages[0].ids[0] for item in found.pool] == [0, 1, 2, 3, 4, 5, 0]
    assert [item.passages[0].ids[0] for item in found.held_out] == [6, 7]
    assert [count for count, _ in asked] == [6, 1, 2]
    assert _found(folder, "a", 7) == found


@pytest.mark.parametrize(("digest", "wanted"), [("b", 3), ("a", 4), ("b", 2)])
def test_those_of_another_job_are_generated_again(
    folder: JobFolder, asked: list[tuple[int, int]], digest: str, wanted: int
) -> None:
    _answers(folder)
    before = len(asked)
    assert len(_answers(folder, digest, wanted)) == wanted
    assert sum(count for count, _ in asked[before:]) == wanted


def test_a_file_that_cannot_be_read_is_written_again(folder: JobFolder, asked: list[tuple[int, int]]) -> None:
    folder.replay.write_bytes(b'{"passages": []}\n')
    assert len(_answers(folder)) == 3
    assert sum(count for count, _ in asked) == 3


def test_without_questions_there_are_none_whatever_an_earlier_job_left(
    folder: JobFolder, asked: list[tuple[int, int]]
) -> None:
    _answers(folder)
    write_rows(folder.prompts, [])
    assert _answers(folder) == []
    assert sum(count for count, _ in asked) == 3


def test_answers_end_where_the_models_positions_end(folder: JobFolder, asked: list[tuple[int, int]]) -> None:
    _answers(folder, max_position=8)
    assert asked == [(2, 5), (1, 5)]
    with pytest.raises(StartupError, match=r"3 tokens; this model takes 3.*--replay 0"):
        _answers(folder, "b", max_position=3)
