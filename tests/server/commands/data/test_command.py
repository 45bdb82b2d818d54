"""`headrace data`: files in, files out, and what is refused."""

import errno
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.command_io.finetuning.items import TrainingItem, read_rows
from engine.command_io.finetuning.job import JobFolder
from engine.command_io.finetuning.plan import TrainingPlan
from engine.errors import OptionError, StartupError
from server.commands.data import command, tokens, training_time
from server.commands.data.command import run
from server.data.memory import LineMemory
from tests.helpers.data_lines import chat, encoded, random_text, with_changes
from tests.helpers.tokenizers import byte_level_info
from tests.helpers.training_plan import PLAN

pytest.importorskip("rensa", reason="the extra 'data' is not installed")
pytestmark = pytest.mark.fast

LINES = [chat(f"Question {seed}?", random_text(seed)) for seed in range(20)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_bytes(encoded(*LINES, LINES[3]))
    return tmp_path


def _values(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_file_is_prepared_split_and_reported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "eval.jsonl").write_bytes(encoded(LINES[5]))
    command = "prepare in.jsonl --out out.jsonl --against eval.jsonl --validation valid.jsonl --report report.json"
    assert run(command.split()) == 0
    train, valid = _values(folder / "out.jsonl"), _values(folder / "valid.jsonl")
    assert len(valid) == 2
    assert sorted(map(str, [*train, *valid])) == sorted(map(str, LINES[:5] + LINES[6:]))
    assert "removed 2: contaminated 1, duplicate 1\nwritten: 17, validation 2" in capsys.readouterr().out

    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert run(command.split()) == 0
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    capsys.readouterr()

    assert run(["report", "report.json"]) == 0
    headline = capsys.readouterr().out.split("\n")[0]
    assert headline == ("in.jsonl: 21 lines, 2 removed, 17 for training, 2 for validation; compared with eval.jsonl")
    assert run(["report", "report.json", "--out", "page.html"]) == 0
    assert "<td>duplicate<td>1<td>21<td>21" in (folder / "page.html").read_text()

    with pytest.raises(OptionError, match=r"report.json would be overwritten; name another file"):
        run(["report", "report.json", "--out", str(folder / "report.json")])
    assert (folder / "report.json").read_bytes() == before["report.json"]


@pytest.mark.parametrize(("kind", "num_left"), [("near", 20), ("exact", 21), ("none", 22)])
def test_given_kinds_of_duplicates_are_removed(folder: Path, kind: str, num_left: int) -> None:
    near = chat("Question 3?", with_changes(random_text(3), 0.05))
    (folder / "in.jsonl").write_bytes(encoded(*LINES, LINES[3], near))
    assert run(["prepare", "in.jsonl", "--out", "out.jsonl", "--dedup", kind]) == 0
    assert len(_values(folder / "out.jsonl")) == num_left


def test_files_are_mixed_by_weights(folder: Path) -> None:
    rows = [{"prompt": f"Question {seed}?", "completion": random_text(seed)} for seed in range(100, 104)]
    (folder / "b.jsonl").write_bytes(encoded(*rows))
    assert run(["prepare", "in.jsonl", "b.jsonl", "--weights", "1", "1", "--out", "out.jsonl"]) == 0
    values = _values(folder / "out.jsonl")
    assert (len(values), sum("prompt" in value for value in values)) == (8, 4)


@pytest.mark.parametrize("files", [["in.jsonl"], ["in.jsonl", "b.txt"]])
def test_kinds_that_no_job_takes_together_are_refused(folder: Path, files: list[str]) -> None:
    (folder / "b.txt").write_text(random_text(100))
    (folder / "in.jsonl").write_bytes(encoded(*LINES, *([] if len(files) == 2 else [{"text": random_text(100)}])))
    expected = f"  in.jsonl: 20 lines of the kind chat, the first is line 1\n  {files[-1]}: 1 line of the kind text"
    with pytest.raises(StartupError, match=expected):
        run(["prepare", *files, "--out", "out.jsonl"])
    assert not (folder / "out.jsonl").exists()


def test_weights_need_a_line_of_each_file(folder: Path) -> None:
    (folder / "b.jsonl").write_bytes((folder / "in.jsonl").read_bytes())
    with pytest.raises(StartupError, match=r"no line of b.jsonl is left, and --weights demands some"):
        run(["prepare", "in.jsonl", "b.jsonl", "--weights", "1", "1", "--out", "out.jsonl", "--max-removed", "0.9"])
    assert not (folder / "out.jsonl").exists()


def test_plain_text_can_stay_plain_text(folder: Path) -> None:
    text = f"{random_text(1)}\n{random_text(2)}\n\n{random_text(3)}\n"
    (folder / "a.txt").write_text(text + "\n" + random_text(3))
    assert run(["prepare", "a.txt", "--out", "out.txt"]) == 0
    assert (folder / "out.txt").read_text() == text
    with pytest.raises(OptionError, match=r"line 1 is a chat; name a .jsonl file"):
        run(["prepare", "in.jsonl", "--out", "out.txt"])


def test_a_text_that_jobs_would_read_as_json_is_refused(folder: Path) -> None:
    (folder / "a.txt").write_text(f"{{{random_text(1)}")
    with pytest.raises(OptionError, match=r"start with a curly bracket, so jobs would read it as JSON lines; name"):
        run(["prepare", "a.txt", "--out", "out.txt"])
    assert run(["prepare", "a.txt", "--out", "out.jsonl"]) == 0


def test_lines_that_need_more_memory_than_is_free_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_budget", lambda total: LineMemory(5000, total))
    with pytest.raises(StartupError, match=r"in.jsonl: the lines need .* so about 2 lines fit; .* --dedup exact"):
        run(["prepare", "in.jsonl", "--out", "out.jsonl"])
    assert not (folder / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("prepare in.parquet --out out.jsonl", "in.parquet is a .parquet file"),
        ("prepare no.jsonl --out out.jsonl", "cannot read no.jsonl: No such file"),
        ("prepare in.jsonl --out in.jsonl", "in.jsonl would be overwritten"),
        ("prepare in.jsonl --out out.jsonl --report no/r.json", "the folder of no/r.json does not exist; create it"),
        ("prepare in.jsonl --out out.csv", "neither a .jsonl nor a .txt file"),
        ("prepare in.jsonl --out out.jsonl --ngram 2", "--ngram is 2; it must be from 8 to 50"),
        ("prepare in.jsonl --out out.jsonl --quality best", "--quality has 'best', which is not a rule"),
        ("prepare in.jsonl --out out.jsonl --weights 1 2", "--weights has 2 values for 1 file"),
        ("prepare in.jsonl --out out.jsonl --weights 0", "--weights must be positive"),
        ("prepare in.jsonl --out out.jsonl --validation-share 0.1", "--validation-share needs --validation"),
        ("report in.jsonl", "in.jsonl is not the report of a preparation"),
        ("", "no action given"),
    ],
)
def test_wrong_options_are_refused(folder: Path, command: str, message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        run(command.split())
    assert not (folder / "out.jsonl").exists()


def test_faulty_lines_are_listed_and_nothing_is_written(folder: Path) -> None:
    (folder / "in.jsonl").write_text('{"text": "a"}\n{\n[]\n')
    with pytest.raises(StartupError, match=r"line 2: this line is not valid JSON.*\n  line 3: this line is not a JSON"):
        run(["prepare", "in.jsonl", "--out", "out.jsonl"])
    assert not (folder / "out.jsonl").exists()


@pytest.mark.parametrize("arguments", ["empty.jsonl", "in.jsonl empty.jsonl", "in.jsonl --against empty.jsonl"])
def test_a_file_without_lines_is_refused(folder: Path, arguments: str) -> None:
    (folder / "empty.jsonl").write_text("\n")
    with pytest.raises(StartupError, match=r"^empty.jsonl has no lines; leave it out, or give another file$"):
        run(["prepare", *arguments.split(), "--out", "out.jsonl"])
    assert not (folder / "out.jsonl").exists()


def test_too_many_removed_lines_write_the_report_alone(folder: Path) -> None:
    (folder / "in.jsonl").write_bytes(encoded(LINES[0], *[chat("x", "")] * 3))
    with pytest.raises(StartupError, match=r"3 of 4 lines were removed \(chat_empty 1, duplicate 2\)|chat_empty 3"):
        run(["prepare", "in.jsonl", "--out", "out.jsonl", "--report", "report.json"])
    assert not (folder / "out.jsonl").exists()
    assert json.loads((folder / "report.json").read_text())["num_lines"] == 4
    with pytest.raises(StartupError, match=r"or the bound; --report FILE writes examples$"):
        run(["prepare", "in.jsonl", "--out", "out.jsonl"])


def test_both_outputs_are_checked_before_one_is_written(folder: Path) -> None:
    with pytest.raises(OptionError, match=r"valid.txt is a .txt file, and line \d+ is a chat; name a .jsonl file"):
        run(["prepare", "in.jsonl", "--out", "out.jsonl", "--validation", "valid.txt"])
    assert not (folder / "out.jsonl").exists()


@pytest.mark.parametrize("lines", [LINES, [chat("x", "")]])
def test_a_report_that_cannot_be_written_is_named(folder: Path, lines: list[Any]) -> None:
    (folder / "in.jsonl").write_bytes(encoded(*lines))
    (folder / "report").mkdir()
    with pytest.raises(StartupError, match=r"cannot write report: Is a directory; name another file for --report"):
        run(["prepare", "in.jsonl", "--out", "out.jsonl", "--report", "report"])


@pytest.mark.parametrize("content", ["{}", '{"num_lines": 3}'])
def test_json_that_is_no_report_is_refused(folder: Path, content: str) -> None:
    (folder / "report.json").write_text(content)
    with pytest.raises(OptionError, match=r"report.json is not the report of a preparation \(it names no files\)"):
        run(["report", "report.json"])


def test_rules_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["rules"]) == 0
    assert "chat_refusal" in capsys.readouterr().out


def _describe(_: str, path: str, engine: str) -> int:
    folder = JobFolder(Path(path))
    folder.tokenizer_info.write_bytes(msgspec.msgpack.encode(byte_level_info()))
    pools = json.loads(engine)["model"] == "minilm" or json.loads(engine)["task"] == "embed"
    folder.capabilities.write_bytes(msgspec.json.encode(["embedding"] if pools else ["completion"]))
    return 0


def test_tokens_are_those_of_a_models_job(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tokens, "run_module", _describe)
    lines = [{"prompt": "ab", "completion": "cde"}, {"prompt": "a", "completion": "c" * 20}]
    (folder / "in.jsonl").write_bytes(encoded(*lines))
    assert run(["prepare", "in.jsonl", "--out", "out.jsonl", "--model", "m", "--report", "report.json"]) == 0
    report = json.loads((folder / "report.json").read_text())
    assert report["num_trained_tokens"] == (3 + 20 + 2 * bool(byte_level_info().eos_token_ids))
    assert report["tokens"]["total"] == report["num_trained_tokens"] + 3

    assert report["training"] is None
    assert "no training time is estimated: the training file cannot be used:\n  the training file has 2 lines" in (
        capsys.readouterr().err
    )

    (folder / "in.jsonl").write_bytes(encoded(LINES[0]))
    with pytest.raises(StartupError, match="line 1: the model has no chat template"):
        run(["prepare", "in.jsonl", "--out", "out.jsonl", "--model", "m"])


def test_the_report_has_the_time_to_train_on_the_written_lines(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[int] = []

    def answer_from(module: str, path: str, kind: type) -> TrainingPlan:
        assert (module, kind) == ("engine.finetuning.plan", TrainingPlan)
        items = read_rows(JobFolder(Path(path)).train, TrainingItem)
        trained.append(sum(item.num_tokens for item in items))
        return msgspec.structs.replace(PLAN, num_examples=len(items), num_tokens=trained[0])

    monkeypatch.setattr(tokens, "run_module", _describe)
    monkeypatch.setattr(training_time, "answer_from", answer_from)
    lines = [{"prompt": f"{seed}", "completion": random_text(seed)} for seed in range(15)]
    (folder / "in.jsonl").write_bytes(encoded(*lines))
    command = "prepare in.jsonl --out out.jsonl --model m --report report.json --validation valid.jsonl"
    assert run([*command.split(), "--validation-share", "0.2"]) == 0
    report = json.loads((folder / "report.json").read_text())
    assert report["training"]["num_examples"] == 12
    computed = 3 * trained[0] + 2_000
    assert report["training"]["num_tokens"] == computed
    assert report["training"]["most_s"] == 2 * report["training"]["least_s"] == 4 * 80e6 * computed / 80e9
    assert "training: " in capsys.readouterr().out
    assert run(["report", "report.json"]) == 0
    shown = capsys.readouterr().out
    assert f"{computed:,} tokens in 3 epochs, 2,000 of them replayed" in shown
    assert "modeled: 4 operations for each weight and token" in shown


def test_a_model_that_cannot_be_trained_leaves_the_time_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer_from(*_: Any) -> TrainingPlan:
        raise SystemExit(1)

    monkeypatch.setattr(tokens, "run_module", _describe)
    monkeypatch.setattr(training_time, "answer_from", answer_from)
    (folder / "in.jsonl").write_bytes(encoded(*({"text": random_text(seed)} for seed in range(3))))
    command = "prepare in.jsonl --out out.jsonl --model m --report report.json --quality"
    assert run(command.split()) == 0
    assert len(_values(folder / "out.jsonl")) == 3
    assert json.loads((folder / "report.json").read_text())["training"] is None
    assert "no training time is estimated: the reason is above" in capsys.readouterr().err


def test_a_full_temporary_folder_leaves_the_time_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write_files(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tokens, "run_module", _describe)
    monkeypatch.setattr(training_time, "write_files", write_files)
    (folder / "in.jsonl").write_bytes(encoded(*({"text": random_text(seed)} for seed in range(3))))
    assert run(["prepare", "in.jsonl", "--out", "out.jsonl", "--model", "m", "--quality"]) == 0
    assert len(_values(folder / "out.jsonl")) == 3
    assert "No space left on device; set TMPDIR to a folder with more room" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--model", "--semantic-model"])
def test_a_model_that_cannot_be_read_is_refused_before_lines_are_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setattr(tokens, "run_module", lambda *_: 1)
    (folder / "in.jsonl").write_text("no line")
    with pytest.raises(OptionError, match=f"{option} m cannot be read, for the reason above; give another model"):
        run(["prepare", "in.jsonl", "--out", "out.jsonl", option, "m"])
    monkeypatch.setattr(tokens, "run_module", lambda *_: 130)
    with pytest.raises(SystemExit, match="130"):
        run(["prepare", "in.jsonl", "--out", "out.jsonl", option, "m"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--semantic-model m", "--semantic-model: the model m can do completion, and not embedding"),
        ("--model minilm --max-ifd 1", "--model: the model minilm can do embedding, and not completion"),
        ("--model minilm --judge judge.json --min-score 1", "--model: the model minilm .* not completion"),
    ],
)
def test_a_model_of_the_wrong_kind_is_refused_before_lines_are_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: str, message: str
) -> None:
    monkeypatch.setattr(tokens, "run_module", _describe)
    grader = {"type": "score_model", "name": "good", "model": "judge", "range": [0, 9]}
    messages = [{"role": "user", "content": "{{sample.output_text}}"}]
    (folder / "judge.json").write_text(json.dumps({**grader, "input": messages}))
    (folder / "in.jsonl").write_text("no line")
    command = f"prepare in.jsonl --out out.jsonl {options}"
    with pytest.raises(OptionError, match=f"{message}; name another one"):
        run(command.split())


def test_options_of_the_environment_count_for_a_models_kind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "run_module", _describe)
    monkeypatch.setenv("HEADRACE_TASK", "embed")
    (folder / "in.jsonl").write_text("no line")
    with pytest.raises(StartupError, match="line 1"):
        run(["prepare", "in.jsonl", "--out", "out.jsonl", "--semantic-model", "m"])
