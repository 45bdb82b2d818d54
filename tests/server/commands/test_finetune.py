"""`headrace finetune`: what its options refuse before anything is loaded."""

from pathlib import Path

import pytest

from engine.errors import OptionError
from server.commands.finetune import run

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "MODEL or the training file is missing"),
        (["model"], "MODEL or the training file is missing"),
        (["model", "file"], "--out is missing"),
        (["model", "file", "more", "--out", "x"], "unexpected argument more"),
        (["model", "file", "--out", "x", "--lora-rnak", "3"], "--lora-rank"),
        (["model", "file", "--out", "x", "--early-stopping", "2"], "needs a validation loss"),
        (["model", "file", "--out", "x", "--pacing", "sqrt"], "needs an order"),
        (["model", "file", "--out", "x", "--beta", "0.2"], "--beta is for --method dpo"),
        (["model", "file", "--out", "x", "--method", "grpo"], "grpo"),
        (["model", "file", "--out", "x", "--n-epochs", "0"], "at least 1"),
        (["model", "file", "--out", "x", "--quantization-group-size", "7"], "--quantization-group-size"),
    ],
)
def test_wrong_options_are_refused(argv: list[str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        run(argv)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"cannot read .*: No such file"):
        run(["model", str(tmp_path / "chats.jsonl"), "--out", str(tmp_path / "out")])
