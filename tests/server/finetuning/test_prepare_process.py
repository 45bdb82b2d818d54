"""What comes of a job's files: all that the trainer reads, or what is wrong with them."""

import json
from pathlib import Path

import msgspec
import pytest

from engine.command_io.finetuning.items import GradedPrompt, Passage, TrainingItem, read_rows
from engine.command_io.finetuning.job import FinetuningJob, Hyperparameters, JobFolder, TrainingMethod
from engine.command_io.finetuning.thoughts import ThoughtMarks
from engine.config import EngineConfig
from server.finetuning import prepare_process
from server.finetuning.job_files import JobOrder
from server.finetuning.prepare_process import Faulty, Made, PrepareTask, Refused, prepare_files
from tests.helpers.tokenizers import byte_level_info


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    made = JobFolder(tmp_path / "out" / "job")
    made.path.mkdir(parents=True)
    made.tokenizer_info.write_bytes(msgspec.msgpack.encode(byte_level_info()))
    return made


def _file(folder: Path, name: str, rows: list[object]) -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _rows(count: int = 10, first: int = 0) -> list[object]:
    return [{"prompt": f"question {number}", "completion": "yes"} for number in range(first, first + count)]


def _task(folder: Path, rows: list[object], valid: list[object] | None = None, **order: object) -> PrepareTask:
    fields: dict[str, object] = {
        "engine": EngineConfig(model="tiny"),
        "method": TrainingMethod.SUPERVISED,
        "hyperparameters": Hyperparameters(n_epochs=2),
        "seed": 5,
    }
    return PrepareTask(
        order=JobOrder(**{**fields, **order}),  # type: ignore[arg-type]
        train=_file(folder, "train", rows),
        valid=None if valid is None else _file(folder, "valid", valid),
    )


def test_all_is_there_that_the_trainer_reads(folder: JobFolder, tmp_path: Path) -> None:
    outcome = prepare_files(folder, _task(tmp_path, [*_rows(), *_rows(1)], _rows(3, 100)))
    assert isinstance(outcome, Made)
    assert (outcome.report.num_lines, outcome.report.removed) == (11, {"duplicate": [11]})
    job = msgspec.json.decode(folder.job.read_bytes(), type=FinetuningJob)
    assert (job.seed, job.hyperparameters.n_epochs) == (5, 2)
    assert str(tmp_path) not in folder.job.read_text()
    assert len(read_rows(folder.train, TrainingItem)) == 10
    assert len(read_rows(folder.valid, TrainingItem)) == 3


def test_the_same_task_gives_the_same_bytes(folder: JobFolder, tmp_path: Path) -> None:
    task = _task(tmp_path, _rows())
    files = (folder.job, folder.train, folder.valid, folder.prompts)
    prepare_files(folder, task)
    before = [path.read_bytes() for path in files]
    prepare_files(folder, task)
    assert [path.read_bytes() for path in files] == before


@pytest.mark.parametrize("is_validation", [False, True])
def test_faults_are_told_with_the_file_that_has_them(folder: JobFolder, tmp_path: Path, is_validation: bool) -> None:
    bad = [*_rows(2, 50), {"prompt": "no answer"}]
    task = _task(tmp_path, _rows(), bad) if is_validation else _task(tmp_path, [*_rows(), *bad])
    outcome = prepare_files(folder, task)
    assert isinstance(outcome, Faulty)
    assert outcome.is_validation is is_validation
    assert [fault.text for fault in outcome.faults] == [f"line {3 if is_validation else 13}: completion is missing"]
    assert not folder.job.exists()


def test_a_file_that_is_gone_is_told_by_its_name(folder: JobFolder, tmp_path: Path) -> None:
    task = msgspec.structs.replace(_task(tmp_path, _rows()), train=str(tmp_path / "file-1"))
    assert prepare_files(folder, task) == Refused("file-1 is no longer on the server's disk; upload it again")


def test_a_replay_that_cannot_be_is_refused(folder: JobFolder, tmp_path: Path) -> None:
    outcome = prepare_files(folder, _task(tmp_path, _rows(), hyperparameters=Hyperparameters(replay=0.5)))
    assert isinstance(outcome, Refused)
    assert not outcome.is_passing
    assert "--replay is 0.5, and the model has no chat template" in outcome.message


def test_too_little_memory_is_told(folder: JobFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(prepare_process, "write_job", fails)
    assert prepare_files(folder, _task(tmp_path, _rows())) == Refused(
        "the files need more than 4 GiB of memory to be prepared; divide them"
    )


def test_the_adapter_that_is_gone_on_with_is_the_jobs_own_copy(folder: JobFolder, tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    parent.mkdir()
    (parent / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 12}')
    (parent / "adapter_model.safetensors").write_text("weights")
    assert isinstance(prepare_files(folder, _task(tmp_path, _rows(), start=str(parent))), Made)
    job = msgspec.json.decode(folder.job.read_bytes(), type=FinetuningJob)
    assert job.start == "start"
    assert (folder.path / "start" / "adapter_model.safetensors").read_text() == "weights"
    assert (job.hyperparameters.lora_rank, job.hyperparameters.lora_alpha) == (4, 12.0)


def test_a_parent_that_was_deleted_meanwhile_is_told(folder: JobFolder, tmp_path: Path) -> None:
    outcome = prepare_files(folder, _task(tmp_path, _rows(), start=str(tmp_path / "parent")))
    assert isinstance(outcome, Refused)
    assert "has been deleted meanwhile" in outcome.message
    assert (outcome.param, outcome.is_passing) == ("model", False)


def test_a_parent_that_is_no_adapter_is_refused(folder: JobFolder, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_text("")
    outcome = prepare_files(folder, _task(tmp_path, _rows(), start=str(tmp_path)))
    assert isinstance(outcome, Refused)
    assert "has no adapter to train on with" in outcome.message


@pytest.mark.parametrize(("given", "longest"), [(None, 20), (15, 15)])
def test_examples_are_as_long_as_the_model_takes_unless_a_length_is_given(
    folder: JobFolder, tmp_path: Path, given: int | None, longest: int
) -> None:
    folder.context.write_text("20")
    rows: list[object] = [{"text": "a long text " * 30}]
    task = _task(tmp_path, rows, method=TrainingMethod.PRETRAINING, hyperparameters=Hyperparameters(max_length=given))
    assert isinstance(prepare_files(folder, task), Made)
    assert max(item.longest for item in read_rows(folder.train, TrainingItem)) == longest


CHECK = {
    "type": "string_check",
    "operation": "eq",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
}


def _prompts(count: int = 10) -> list[object]:
    return [
        {"messages": [{"role": "user", "content": f"question {number}"}], "answer": number, "note": "x"}
        for number in range(count)
    ]


def _reinforced(folder: Path, rows: list[object], valid: list[object] | None = None, **given: object) -> PrepareTask:
    return _task(
        folder,
        rows,
        valid,
        method=TrainingMethod.REINFORCEMENT,
        grader=CHECK,
        hyperparameters=Hyperparameters(**given),  # type: ignore[arg-type]
        chat_template="{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}",
    )


def test_prompts_are_there_with_what_their_answers_are_graded_by(folder: JobFolder, tmp_path: Path) -> None:
    rows = _prompts(12)
    outcome = prepare_files(folder, _reinforced(tmp_path, [*rows, rows[3]], [*_prompts(13)[12:], rows[5]]))
    assert isinstance(outcome, Made)
    assert outcome.report.removed == {"in_validation_file": [6], "duplicate": [13]}
    found, valid = read_rows(folder.train, GradedPrompt), read_rows(folder.valid, GradedPrompt)
    assert [each.item for each in found] == [{"answer": number} for number in range(12) if number != 5]
    assert [each.line for each in found] == [number for number in range(1, 13) if number != 6]
    assert [each.item for each in valid] == [{"answer": 12}, {"answer": 5}]
    assert [each.ids for each in read_rows(folder.samples, Passage)] == [each.ids for each in valid]
    job = msgspec.json.decode(folder.job.read_bytes(), type=FinetuningJob)
    assert (job.method, job.grader) == (TrainingMethod.REINFORCEMENT, CHECK)
    assert job.hyperparameters.max_completion_tokens == 256


def test_the_length_of_answers_fits_the_model(folder: JobFolder, tmp_path: Path) -> None:
    folder.context.write_bytes(b"64")
    assert isinstance(prepare_files(folder, _reinforced(tmp_path, _prompts())), Made)
    job = msgspec.json.decode(folder.job.read_bytes(), type=FinetuningJob)
    assert job.hyperparameters.max_completion_tokens == 32


def test_faults_of_prompts_are_told_by_line(folder: JobFolder, tmp_path: Path) -> None:
    folder.context.write_bytes(b"64")
    user = {"role": "user", "content": "why? " * 20}
    bad = [{"messages": [user], "answer": 1}, {"messages": [{**user, "content": "x"}]}]
    outcome = prepare_files(folder, _reinforced(tmp_path, [*_prompts(), *bad], max_completion_tokens=10))
    assert isinstance(outcome, Faulty)
    first, second = outcome.faults
    assert (first.line, second.line) == (11, 12)
    assert "together the model takes 64" in first.message
    assert "the grader's reference reads {{item.answer}}" in second.message


def test_the_trainer_knows_how_a_model_thinks(folder: JobFolder, tmp_path: Path) -> None:
    task = _reinforced(tmp_path, _prompts())
    assert isinstance(prepare_files(folder, task), Made)
    assert msgspec.json.decode(folder.job.read_bytes(), type=FinetuningJob).thought is None
    template = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}<think>\n{% endif %}"
    order = msgspec.structs.replace(task.order, chat_template=template)
    assert isinstance(prepare_files(folder, msgspec.structs.replace(task, order=order)), Made)
    job = msgspec.json.decode(folder.job.read_bytes(), type=FinetuningJob)
    assert job.thought == ThoughtMarks("<think>", "</think>")
