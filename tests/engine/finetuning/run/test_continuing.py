"""Whole jobs on a tiny model that were stopped go on to the last bit, and others from what they trained."""

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from engine.command_io.finetuning import auto
from engine.command_io.finetuning.items import write_rows
from engine.command_io.finetuning.job import FinetuningJob, Hyperparameters, JobFolder, TrainingMethod
from engine.errors import StartupError
from engine.finetuning import trainer
from engine.finetuning.examples import task as example_task
from engine.finetuning.run import train
from models.attention.reference import ReferenceAttention
from models.families.registry import family_of
from models.system.cores import allowed_cpus
from models.training.adapter_file import save_adapter
from models.training.attention import TrainAttention
from models.training.lora import Lora, LoraShape
from tests.helpers.checkpoints import load_folder
from tests.helpers.finetuning_run import (
    PROMPTS,
    QUICK,
    THOROUGH,
    Job,
    finetuning_job,
    run_job,
    training_item,
)


@pytest.mark.parametrize("method", [TrainingMethod.SUPERVISED, TrainingMethod.DPO])
def test_a_job_that_was_stopped_goes_on_to_the_last_bit(
    model: Path, tmp_path: Path, method: TrainingMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "_SAVE_INTERVAL_S", -1.0)  # after each step
    whole, stopped = (finetuning_job(model, tmp_path / name, method=method) for name in ("whole", "stopped"))
    for job in (whole, stopped):
        write_rows(job.folder.prompts, PROMPTS)
    run_job(whole)

    class Stop(Exception):
        pass

    for last in (2, 3, 7):  # within an epoch, at its end, and in the last one

        def progress(stage: str, done: int, total: int, unit: str, last: int = last) -> None:  # noqa: ARG001
            if stage == "train" and done == last + 1:
                raise Stop

        with pytest.raises(Stop):
            train(stopped.folder, progress)
    run_job(stopped)

    assert whole.adapter().keys() == stopped.adapter().keys()
    assert all(torch.equal(tensor, stopped.adapter()[name]) for name, tensor in whole.adapter().items())
    assert whole.folder.results.read_text() == stopped.folder.results.read_text()
    assert any("Continuing after step" in message for message in stopped.events())


def test_a_job_keeps_what_was_chosen_when_it_began(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "_SAVE_INTERVAL_S", -1.0)
    now = auto._DEFAULTS[TrainingMethod.SUPERVISED]._replace(least_steps=33, most_epochs=11)
    monkeypatch.setitem(auto._DEFAULTS, TrainingMethod.SUPERVISED, now)
    whole, stopped = (finetuning_job(model, tmp_path / name, Hyperparameters()) for name in ("whole", "stopped"))
    for job in (whole, stopped):
        write_rows(job.folder.prompts, PROMPTS)
    run_job(whole)

    def until_third(stage: str, done: int, total: int, unit: str) -> None:  # noqa: ARG001
        if stage == "train" and done == 3:
            raise SystemExit(143)

    with pytest.raises(SystemExit):
        train(stopped.folder, until_third)
    later = now._replace(least_steps=60, most_epochs=20, learning_rate=1e-4, rank=16)  # of a later version
    monkeypatch.setitem(auto._DEFAULTS, TrainingMethod.SUPERVISED, later)
    run_job(stopped)

    assert any("Continuing after step" in message for message in stopped.events())
    assert all(torch.equal(tensor, stopped.adapter()[name]) for name, tensor in whole.adapter().items())
    assert whole.folder.results.read_text() == stopped.folder.results.read_text()
    made = [sorted(path.name for path in (job.out / "checkpoints").iterdir()) for job in (whole, stopped)]
    assert made[0] == made[1] == sorted(f"step-{step}" for step in (6, 12, 18, 24, 30, 33))


def test_a_job_goes_on_in_a_folder_that_was_moved(model: Path, tmp_path: Path) -> None:
    job = finetuning_job(model, tmp_path / "before")
    start = job.folder.path / "start"
    save_adapter(start, _adapter_to_go_on_with(model), "base")
    asked = msgspec.json.decode(job.folder.job.read_bytes(), type=FinetuningJob)
    job.folder.job.write_bytes(msgspec.json.encode(msgspec.structs.replace(asked, start="start")))
    steps: list[int] = []

    def until_third(stage: str, done: int, total: int, unit: str) -> None:  # noqa: ARG001
        if stage == "train":
            steps.append(done)
            if len(steps) == 4:
                raise SystemExit(143)

    with pytest.raises(SystemExit):
        train(job.folder, until_third)
    job.out.rename(tmp_path / "after")
    moved = Job(JobFolder(tmp_path / "after" / "job"), tmp_path / "after")
    run_job(moved)

    assert "Continuing after step 3 of 9" in moved.events()
    assert moved.adapter()
    assert not (tmp_path / "before").exists()


def test_a_job_of_a_larger_machine_goes_on_with_the_cpus_that_there_are(model: Path, tmp_path: Path) -> None:
    job = finetuning_job(model, tmp_path, msgspec.structs.replace(QUICK, n_epochs=1))
    asked = msgspec.json.decode(job.folder.job.read_bytes(), type=FinetuningJob)
    engine = dataclasses.replace(asked.engine, threads=1000)
    job.folder.job.write_bytes(msgspec.json.encode(msgspec.structs.replace(asked, engine=engine)))
    run_job(job)

    assert torch.get_num_threads() == len(allowed_cpus())
    assert any("made for 1000 threads" in message for message in job.events())


def _adapter_to_go_on_with(model: Path) -> Lora:
    decoder = load_folder(model, torch.float32, TrainAttention(ReferenceAttention()))
    return Lora(decoder, family_of("LlamaForCausalLM").names, LoraShape(4, 8.0), seed=5)


def test_another_job_does_not_go_on_with_this_ones_state(model: Path, tmp_path: Path) -> None:
    job = finetuning_job(model, tmp_path)
    run_job(job)
    write_rows(job.folder.train, [training_item(seed) for seed in range(20, 32)])

    (job.folder.path / "replay.json").unlink(missing_ok=True)
    with pytest.raises(StartupError, match=r"has the state of another job; changed: train.jsonl from example 1 on"):
        run_job(job)
    assert not (job.folder.path / "replay.json").exists()  # refused before the base answers questions


def test_a_job_goes_on_from_an_adapter(model: Path, tmp_path: Path) -> None:
    first = finetuning_job(model, tmp_path / "first", THOROUGH)
    run_job(first)
    second = finetuning_job(model, tmp_path / "second")
    job = msgspec.json.decode(second.folder.job.read_bytes(), type=FinetuningJob)
    second.folder.job.write_bytes(msgspec.json.encode(msgspec.structs.replace(job, start=str(first.out))))
    run_job(second)

    loss = float(second.folder.results.read_text().splitlines()[1].split(",")[1])
    assert loss < 0.5


def test_a_job_that_is_told_to_stop_within_a_step_saves_the_steps_before(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = (finetuning_job(model, tmp_path / name) for name in ("whole", "stopped"))
    run_job(whole)
    add_gradients = example_task.add_gradients
    steps = []

    def until_sigterm(*arguments: Any) -> Any:
        score = add_gradients(*arguments)
        steps.append(score)
        if len(steps) == 2:
            raise SystemExit(143)
        return score

    monkeypatch.setattr(example_task, "add_gradients", until_sigterm)
    with pytest.raises(SystemExit):
        run_job(stopped)
    run_job(stopped)

    assert "Continuing after step 1 of 9" in stopped.events()
    assert all(torch.equal(tensor, stopped.adapter()[name]) for name, tensor in whole.adapter().items())
    assert whole.folder.results.read_text() == stopped.folder.results.read_text()
