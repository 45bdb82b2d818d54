"""`headrace finetune`: what its options refuse before anything is loaded."""

import fcntl
import json
from pathlib import Path

import msgspec
import pytest

from engine.errors import OptionError, StartupError
from engine.jobs.finetune.job import JobFolder
from server.commands import finetune
from server.commands.finetune import run
from tests.helpers.tokenizers import byte_level_info

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
        (["model", "file", "--out", "x", "--beta", "0.2"], "--beta is 0.2; it is dpo's"),
        (["model", "file", "--out", "x", "--rpo-alpha", "0.2"], "--rpo-alpha is 0.2; it is dpo's"),
        (["model", "file", "--out", "x", "--method", "grpo"], "grpo"),
        (["model", "file", "--out", "x", "--n-epochs", "0"], "at least 1"),
        (["model", "file", "--out", "x", "--quantization-group-size", "7"], "--quantization-group-size"),
        (["model", "file", "--out", "x", "--threads", "100000"], "--threads is 100,000; this process can run"),
    ],
)
def test_wrong_options_are_refused(argv: list[str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        run(argv)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"cannot read .*: No such file"):
        run(["model", str(tmp_path / "chats.jsonl"), "--out", str(tmp_path / "out")])


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Programs that the command runs; the first one finds a model without a chat template."""
    names: list[str] = []

    def run_module(name: str, folder: str, *_: str) -> int:
        names.append(name)
        (Path(folder) / "tokenizer.msgpack").write_bytes(msgspec.msgpack.encode(byte_level_info()))
        return 0

    monkeypatch.setattr(finetune, "run_module", run_module)
    return names


def _argv(folder: Path, *options: str) -> list[str]:
    rows = [{"prompt": f"question {number}", "completion": "yes"} for number in range(10)]
    train = folder / "train.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["model", str(train), "--out", str(folder / "out"), *options]


def test_replay_is_refused_for_a_model_that_cannot_be_asked(tmp_path: Path, modules: list[str]) -> None:
    with pytest.raises(StartupError, match=r"--replay is 0.5, and the model has no chat template"):
        run(_argv(tmp_path, "--replay", "0.5"))
    assert run(_argv(tmp_path, "--replay", "0")) == 0
    assert modules[-1] == "engine.finetune"
    assert JobFolder(tmp_path / "out" / "job").prompts.read_bytes() == b""


def test_a_folder_in_which_another_job_is_trained_is_refused(tmp_path: Path, modules: list[str]) -> None:
    folder = JobFolder(tmp_path / "out" / "job")
    folder.path.mkdir(parents=True)
    with folder.lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(StartupError, match=r"another process is training in .*give another --out"):
            run(_argv(tmp_path))
    assert modules == []
    assert run(_argv(tmp_path)) == 0


def test_a_folder_is_locked_while_a_job_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked: list[bool] = []

    def run_module(_: str, folder: str, *__: str) -> int:
        (Path(folder) / "tokenizer.msgpack").write_bytes(msgspec.msgpack.encode(byte_level_info()))
        with JobFolder(Path(folder)).lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                locked.append(True)
        return 0

    monkeypatch.setattr(finetune, "run_module", run_module)
    assert run(_argv(tmp_path)) == 0
    assert locked == [True, True]  # while the model is found, and while it is trained
