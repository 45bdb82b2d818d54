"""`headrace plan` about training: the curve of finished jobs, and options that are refused."""

from pathlib import Path

import pytest

from engine.errors import OptionError
from server.commands.plan_training import is_about_training, run_training
from tests.helpers.finished_jobs import finished_job


def test_finished_jobs_are_fitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"a": (50, 1.401), "b": (50, 1.399), "c": (100, 1.3), "d": (200, 1.23)}
    paths = [finished_job(tmp_path / name, examples=size, loss=loss) for name, (size, loss) in sizes.items()]
    assert run_training(["--jobs", *paths]) == 0
    shown = capsys.readouterr().out
    assert "          50  1.4000   (1.4010 1.3990)" in shown
    assert "Twice the examples like these (400): 1.2300 -> 1.1807 nats per token, better by 0.0492" in shown


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--train", "file"], "MODEL or the file of --train is missing"),
        (["model", "--train"], "MODEL or the file of --train is missing"),
        (["model", "--jobs", "a"], "give one of them"),
        (["--train", "file", "--jobs", "a"], "give one of them"),
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


def test_training_is_distinguished_from_serving() -> None:
    assert is_about_training(["model", "--train=x"])
    assert is_about_training(["--jobs", "a"])
    assert not is_about_training(["model", "--rate", "2"])
