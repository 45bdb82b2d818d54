"""`headrace finetune`: what its options refuse before anything is loaded."""

import fcntl
import json
from pathlib import Path

import msgspec
import pytest

from engine.command_io.finetuning.items import GradedPrompt, read_rows
from engine.command_io.finetuning.job import FinetuningJob, JobFolder, TrainingMethod
from engine.errors import OptionError, StartupError
from server.commands import finetune
from server.commands.finetune import run
from tests.helpers.tokenizers import byte_level_info

REINFORCED = ["model", "file", "--out", "x", "--method", "reinforcement", "--grader", "g.json"]


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
        (["model", "file", "--out", "x", "--method", "reinforcement"], "--grader and --method reinforcement need each"),
        (["model", "file", "--out", "x", "--grader", "g.json"], "--grader and --method reinforcement need each"),
        (["model", "file", "--out", "x", "--group-size", "4"], "--group-size is 4; it is reinforcement's"),
        ([*REINFORCED, "--max-length", "9"], "--max-length is 9; .* max_completion_tokens"),
        ([*REINFORCED, "--eval-samples", "2"], "--eval-samples is 2; .* validation file"),
        ([*REINFORCED, "--group-size", "1"], "from 2 to 128"),
        (REINFORCED, r"cannot read g.json"),
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

    def run_module(name: str, folder: str, *_: str, **__: str) -> int:
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
    assert modules[-1] == "engine.finetuning"
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

    def run_module(_: str, folder: str, *__: str, **___: str) -> int:
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


CHECK = {"type": "string_check", "operation": "eq", "input": "{{sample.output_text}}", "reference": "{{item.answer}}"}


def _reinforced(folder: Path, grader: object) -> list[str]:
    rows = [{"messages": [{"role": "user", "content": f"question {number}"}], "answer": "x"} for number in range(10)]
    train, path = folder / "prompts.jsonl", folder / "grader.json"
    train.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path.write_text(json.dumps(grader))
    template = "{{ messages[0].content }}"
    method = ["--method", "reinforcement", "--grader", str(path), "--chat-template", template]
    return ["model", str(train), "--out", str(folder / "out"), *method]


def test_prompts_and_their_grader_are_given_to_the_trainer(
    tmp_path: Path, modules: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    grader = {**CHECK, "pass_threshold": 0.5}
    assert run([*_reinforced(tmp_path, grader), "--group-size", "4"]) == 0
    assert modules[-1] == "engine.finetuning"
    folder = JobFolder(tmp_path / "out" / "job")
    job = msgspec.json.decode(folder.job.read_bytes(), type=FinetuningJob)
    assert (job.method, job.grader, job.hyperparameters.group_size) == (TrainingMethod.REINFORCEMENT, grader, 4)
    assert [each.item for each in read_rows(folder.train, GradedPrompt)] == [{"answer": "x"}] * 10
    assert "grader.pass_threshold has no effect" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("grader", "message"),
    [
        ([], "grader is a list of 0 items"),
        ({**CHECK, "operation": "is"}, r"grader\.operation is 'is'"),
        ({**CHECK, "input": "x"}, "reads nothing of the sample"),
        (
            {"type": "score_model", "model": "m", "input": [{"role": "user", "content": "{{sample.output_text}}"}]},
            "uses the model 'm', which needs a server",
        ),
    ],
)
def test_a_grader_that_the_command_cannot_train_with_is_refused(
    grader: object, message: str, tmp_path: Path, modules: list[str]
) -> None:
    with pytest.raises(OptionError, match=message):
        run(_reinforced(tmp_path, grader))
    assert modules == []


def test_a_grader_that_is_no_json_is_a_fault_of_its_file(tmp_path: Path, modules: list[str]) -> None:
    arguments = _reinforced(tmp_path, CHECK)
    (tmp_path / "grader.json").write_text("{")
    with pytest.raises(OptionError, match=r"^--grader .*grader\.json: the file is not valid JSON: "):
        run(arguments)
    assert modules == []


def test_a_finished_job_says_how_to_serve_its_adapter(
    tmp_path: Path, modules: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--quantization", "int4", "--no-quantize-head", "--lora-rank", "4", "--threads", "1"]
    assert run(_argv(tmp_path, *options)) == 0

    *_, first, last = capsys.readouterr().err.splitlines()
    assert first == "Serve it, and then ask for the model 'out':"
    served = f"--enable-lora --lora-modules out={tmp_path}/out"
    assert last.endswith(f"headrace serve model --quantization int4 --no-quantize-head {served}")
    assert modules[-1] == "engine.finetuning"
