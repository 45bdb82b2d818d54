"""`headrace plan` about training: the curve of finished jobs, and options that are refused."""

import json
from pathlib import Path

import msgspec
import pytest

from engine.errors import OptionError
from server.commands import plan_training
from server.commands.plan_training import is_about_training, run_training
from server.finetuning.scaling.training_report import training_report
from tests.helpers.finished_jobs import finished_job
from tests.helpers.tokenizers import byte_level_info
from tests.server.finetuning.scaling.test_training_report import PLAN


def test_finished_jobs_are_fitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"a": (50, 1.401), "b": (50, 1.399), "c": (100, 1.3), "d": (200, 1.23)}
    paths = [finished_job(tmp_path / name, examples=size, loss=loss) for name, (size, loss) in sizes.items()]
    assert run_training(["--jobs", *paths]) == 0
    shown = capsys.readouterr().out
    assert "          50  1.4000   (1.4010 1.3990)" in shown
    assert "Twice the examples like these (400): 1.2300 -> 1.1807 nats per token, better by 0.0492" in shown
    assert "cover the noise of the losses, and not that the curve may have another shape" in shown


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--train", "file"], "MODEL or the file of --train is missing"),
        (["model", "--train"], "MODEL or the file of --train is missing"),
        (["model", "--jobs", "a"], "give one of them"),
        (["--train", "file", "--jobs", "a"], "give one of them"),
        (["--jobs", "a", "b", "--like", "c"], "give one of them"),
        (["--jobs", "a", "b", "--lora-rank", "8"], "give one of them"),
        (["model", "--train", "file", "--concurrency", "2"], "--concurrency is an option of a plan for serving, and"),
        (["model", "--train", "file", "--no-changes"], "--no-changes is an option of a plan for serving"),
        (["model", "--train", "file", "--max-num-seqs=2"], "--max-num-seqs is an option of a plan for serving"),
        (["model", "--train", "file", "--bogus"], "^unknown option --bogus$"),
        (["model", "--train", "file", "--jbs"], "unknown option --jbs; did you mean --jobs[?]"),
        (["model", "--train", "file", "--scaling"], "--scaling trains parts of the file; .*leave it out"),
        (["model", "--train", "file", "--grader=g"], "--grader rewards answers of reinforcement, .*leave it out"),
        (["model", "--train", "/nowhere/file"], "cannot read /nowhere/file"),
        (
            ["model", "--train", "file", "--method", "reinforcement"],
            "only supervised, dpo and pretraining can be planned",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(argv: list[str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        run_training(argv)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> str:
    """A model without a chat template, whose processes are replaced."""

    def run_module(_: str, folder: str, *__: str) -> int:
        (Path(folder) / "tokenizer.msgpack").write_bytes(msgspec.msgpack.encode(byte_level_info()))
        return 0

    monkeypatch.setattr(plan_training, "run_module", run_module)
    monkeypatch.setattr(plan_training, "answer_from", lambda *_: PLAN)
    return "model"


def _file(folder: Path, *rows: object) -> str:
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_out_has_no_effect(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": f"question {number}", "completion": "yes"} for number in range(10)]
    out = tmp_path / "adapter"
    assert run_training([model, "--train", _file(tmp_path, *rows), "--replay", "0", "--out", str(out)]) == 0
    shown = capsys.readouterr()
    assert "--out has no effect" in shown.err
    assert "10 lines: 10 examples" in shown.err
    assert shown.out == training_report(PLAN, None)
    assert not out.exists()


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"prompt": 1}], (), r"the training file cannot be used:\n  line 1: "),
        ([{"prompt": "q", "completion": "a"}] * 10, ("--replay", "0.5"), "the model has no chat template"),
    ],
)
def test_files_and_options_that_cannot_be_used_are_wrong_input(
    rows: list[object], options: tuple[str, ...], message: str, model: str, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=message):  # exit code 2
        run_training([model, "--train", _file(tmp_path, *rows), *options])


def test_training_is_distinguished_from_serving() -> None:
    assert is_about_training(["model", "--train=x"])
    assert is_about_training(["--jobs", "a"])
    assert not is_about_training(["model", "--rate", "2"])
