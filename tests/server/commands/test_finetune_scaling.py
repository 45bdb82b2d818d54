"""`headrace finetune --scaling`, with a trainer whose losses follow a planted curve."""

import json
from pathlib import Path

import msgspec
import pytest

from engine.command_io.finetuning.events import JobEventLog
from engine.command_io.finetuning.job import FinetuningJob, JobFolder
from engine.errors import OptionError
from server.commands import finetune
from server.commands.finetune import run
from tests.helpers.tokenizers import byte_level_info


class PlantedTrainer:
    """A trainer that learns nothing: its held-out losses depend on the number of examples. trained: name and examples
    of each job. stops_after: number of jobs after which it is interrupted."""

    def __init__(self) -> None:
        self.trained: list[tuple[str, int]] = []
        self.rates: list[float | None] = []
        self.stops_after = 100
        self.gain = 1.0

    def run_module(self, name: str, folder: str, *_: str, **__: str) -> int:
        job_folder = JobFolder(Path(folder))
        if name == "engine.finetuning.describe":
            job_folder.tokenizer_info.write_bytes(msgspec.msgpack.encode(byte_level_info()))
            return 0
        if len(self.trained) == self.stops_after:
            return 130
        job = msgspec.json.decode(job_folder.job.read_bytes(), type=FinetuningJob)
        count = len(job_folder.train.read_bytes().splitlines())
        self.rates.append(None if job.probe is None else job.probe.learning_rate)
        jitter = 0.001 * (-1) ** len(self.trained)
        self.trained.append((job_folder.out.name, count))
        events = JobEventLog(job_folder.events)
        events.add("begin", n_epochs=2, batch_size=4, learning_rate=4e-4, lora_rank=8)
        after = {"valid_loss": 1.0 + self.gain * count**-0.5 + jitter}
        events.add("Before and after", data={"before": {"valid_loss": 3.0}, "after": after})
        events.close()
        (job_folder.out / "adapter_config.json").write_text("{}")
        return 0


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> PlantedTrainer:
    planted = PlantedTrainer()
    monkeypatch.setattr(finetune, "run_module", planted.run_module)
    return planted


def _argv(folder: Path, *options: str, lines: int = 100) -> list[str]:
    rows = [{"prompt": f"question {number}", "completion": "yes"} for number in range(lines)]
    train = folder / "train.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["model", str(train), "--out", str(folder / "out"), *options]


ALL_PARTS = [
    ("out", 90),
    *((f"quarter-{number}", 22) for number in (1, 2, 3, 4)),
    *((f"half-{number}", 45) for number in (1, 2)),
]


def test_the_whole_and_its_parts_are_trained_and_the_curve_is_reported(
    tmp_path: Path, trainer: PlantedTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(_argv(tmp_path, "--scaling")) == 0

    assert trainer.trained == ALL_PARTS
    assert trainer.rates == [None] + [4e-4] * 6
    shown = capsys.readouterr().err
    assert "--scaling data trains 7 jobs, 3 times the work of this one alone" in shown
    assert "Held-out loss, in nats per token, by examples:" in shown
    assert "Twice the examples like these (180): 1.10" in shown
    assert ", better by 0.0" in shown
    assert "cover the noise of the losses, and not that the curve may have another shape" in shown
    assert shown.splitlines()[-2] == "Serve it, and then ask for the model 'out':"
    report = json.loads((tmp_path / "out" / "scaling" / "report.json").read_bytes())
    assert [point["size"] for point in report["points"]] == [90, 22, 22, 22, 22, 45, 45]
    assert report["law"]["exponent_interval"][0] <= 0.5
    assert not [path for path in (tmp_path / "out" / "scaling").iterdir() if path.is_dir()]


def test_losses_that_only_differ_by_chance_are_called_noise(
    tmp_path: Path, trainer: PlantedTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer.gain = 0.0
    assert run(_argv(tmp_path, "--scaling")) == 0
    assert "which is in the noise (95 %: a change of -" in capsys.readouterr().err


def test_an_interrupted_curve_goes_on_with_the_job_that_was_interrupted(
    tmp_path: Path, trainer: PlantedTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer.stops_after = 3
    assert run(_argv(tmp_path, "--scaling")) == 130
    trainer.stops_after = 100
    assert run(_argv(tmp_path, "--scaling")) == 0
    assert trainer.trained == ALL_PARTS
    before = capsys.readouterr().err.partition("Job 7 of 7")[2]
    assert run(_argv(tmp_path, "--scaling")) == 0
    assert trainer.trained == ALL_PARTS
    assert capsys.readouterr().err.partition("Job 7 of 7")[2] == before


def test_other_options_train_the_parts_again(tmp_path: Path, trainer: PlantedTrainer) -> None:
    assert run(_argv(tmp_path, "--scaling")) == 0
    assert run(_argv(tmp_path, "--scaling", "--seed", "3")) == 0
    assert trainer.trained[:7] == ALL_PARTS
    assert trainer.trained[7:] == ALL_PARTS


def test_ranks_are_a_curve_too(tmp_path: Path, trainer: PlantedTrainer) -> None:
    assert run(_argv(tmp_path, "--scaling", "rank", lines=20)) == 0
    assert [name for name, _ in trainer.trained] == ["out", "quarter-1", "quarter-2", "half-1", "half-2", "whole-2"]
    report = json.loads((tmp_path / "out" / "scaling" / "report.json").read_bytes())
    assert [point["size"] for point in report["points"]] == [8, 2, 2, 4, 4, 8]


def test_another_curve_of_the_same_job_has_the_size_of_the_whole_in_its_own_unit(
    tmp_path: Path, trainer: PlantedTrainer
) -> None:
    assert run(_argv(tmp_path, "--scaling", "rank")) == 0
    assert run(_argv(tmp_path, "--scaling", "data")) == 0
    assert [name for name, _ in trainer.trained].count("out") == 1
    report = json.loads((tmp_path / "out" / "scaling" / "report.json").read_bytes())
    assert [point["size"] for point in report["points"]] == [90, 22, 22, 22, 22, 45, 45]


@pytest.mark.parametrize(
    ("options", "lines", "message"),
    [
        (["--scaling"], 49, "needs at least 50 lines, .* and the file has 49"),
        (["--scaling", "epochs"], 100, "give --n-epochs 4 or more"),
        (["--scaling", "size"], 100, "--scaling is 'size'; it must be one of data, rank, epochs"),
        (["--scaling", "--method", "reinforcement", "--grader", "g"], 100, "a held-out loss, and the method is reinf"),
    ],
)
def test_what_cannot_be_fitted_is_refused_before_anything_is_loaded(
    options: list[str], lines: int, message: str, tmp_path: Path, trainer: PlantedTrainer
) -> None:
    with pytest.raises(OptionError, match=message):
        run(_argv(tmp_path, *options, lines=lines))
    assert trainer.trained == []
    assert not (tmp_path / "out").exists()
