"""Whole jobs within what a model and a machine have: positions, memory."""

from pathlib import Path

import msgspec
import pytest

from engine.command_io.finetuning.events import parse_events
from engine.command_io.finetuning.items import Passage, TrainingItem, write_rows
from engine.command_io.finetuning.job import TrainingMethod
from engine.errors import NotEnoughMemory, StartupError
from engine.finetuning import memory
from tests.helpers.finetuning_run import QUICK, finetuning_job, run_job


def test_an_example_that_is_longer_than_the_models_positions_is_refused(model: Path, tmp_path: Path) -> None:
    job = finetuning_job(model, tmp_path)
    write_rows(job.folder.train, [TrainingItem([Passage([5] * 257, [(6, 9)])])])

    with pytest.raises(StartupError, match=r"has 257 tokens; this model takes 256; give --max-length 256 or less"):
        run_job(job)


def test_the_two_answers_of_a_preference_are_as_long_as_the_longer_one(model: Path, tmp_path: Path) -> None:
    job = finetuning_job(model, tmp_path, msgspec.structs.replace(QUICK, n_epochs=1), TrainingMethod.DPO)
    long = [Passage([5] * 150 + [token] * 6, [(150, 156)]) for token in (7, 8)]
    write_rows(job.folder.train, [TrainingItem(long)])
    run_job(job)
    assert job.adapter()


def test_samples_end_where_the_models_positions_end(model: Path, tmp_path: Path) -> None:
    job = finetuning_job(model, tmp_path, msgspec.structs.replace(QUICK, n_epochs=1))
    write_rows(job.folder.samples, [Passage([5] * 254), Passage([5] * 256), Passage([5])])  # of an earlier version
    run_job(job)

    samples = [event.data for event in parse_events(job.folder.events.read_bytes()) if "sample" in event.data]
    assert [each["sample"] for each in samples] == [0, 2]
    assert all(1 <= len(each["token_ids"]) <= 2 for each in samples)


def test_too_little_memory_is_told_with_the_arithmetic_before_the_first_step(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "obtainable_memory_bytes", lambda _: 200 << 20)
    job = finetuning_job(model, tmp_path)
    with pytest.raises(
        NotEnoughMemory, match=r"training needs 0\.2[5-9] GiB besides .* 0\.20 GiB is free: .*--max-length"
    ):
        run_job(job)
    assert not job.folder.state.exists()


def test_tokens_that_are_computed_together_are_bounded() -> None:
    assert memory.most_tokens([10, 700, 600, 20], 1) == 700
    assert memory.most_tokens([10, 700, 600, 20], 4) == 1024
    assert memory.most_tokens([10, 700, 600, 20, 3000], 4) == 3000
    assert memory.most_tokens([10, 20], 4) == 30
