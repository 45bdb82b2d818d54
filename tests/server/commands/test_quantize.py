"""`headrace quantize` on the command line: what it hands to the process that does the work, and what it refuses."""

import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from server import cli
from server.commands import child_process

pytestmark = pytest.mark.fast


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """The jobs of processes that would have been started."""
    started: list[Any] = []

    def start(module: str, job: str, **_options: str) -> int:
        assert module == "engine.commands.quantize"
        started.append(msgspec.json.decode(job))
        return 3

    monkeypatch.chdir(tmp_path)

    monkeypatch.setattr(child_process, "run_module", start)
    return started


def test_options_reach_the_process_and_its_exit_code_comes_back(jobs: list[Any]) -> None:
    arguments = ["org/model", "--scheme", "W4A16", "--out", "x", "--group-size", "64", "--max-quality-loss", "0.05"]
    arguments += ["--method", "RTN"]
    assert cli.main(["quantize", *arguments]) == 3
    ((model, options, _),) = jobs
    assert model == "org/model"
    assert (options["scheme"], options["out"], options["group_size"]) == ("int4", "x", 64)
    assert (options["max_quality_loss"], options["method"], options["quality_report"]) == (0.05, "rtn", True)


def test_what_a_killed_process_leaves_is_removed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def killed(_: str, job: str, **_options: str) -> int:
        *_, token = msgspec.json.decode(job)
        partial = tmp_path / f".x.{token}"
        partial.mkdir()
        (partial / "part-0.safetensors").write_text("half")
        return 128 + signal.SIGKILL

    monkeypatch.setattr(child_process, "run_module", killed)
    assert cli.main(["quantize", "m", "--out", str(tmp_path / "x")]) == 137
    assert list(tmp_path.iterdir()) == []
    assert f"nothing was written to {tmp_path / 'x'}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "x"], "no model given"),
        (["m"], "--out is missing"),
        (["m", "--out", "x", "--scheme", "nf4"], "it must be one of int4, int8, fp8, w8a8, fp8-dynamic"),
        (["m", "--out", "x", "--grupsize", "64"], "unknown option --grupsize; did you mean --group-size?"),
        (["m", "n", "--out", "x"], "unexpected argument n"),
        (["m", "--out", "x", "--method", "awq"], "must be one of gptq, rtn"),
        (["m", "--out", "bad\udcff"], "'bad\\udcff' is not valid UTF-8"),
        (["m", "--out", "~nobody-of-that-name/x"], "--out ~nobody-of-that-name/x: "),
        (["m", "--out", "x", "--quality-report=no"], "--no-quality-report do not take a value, but 'no' is given"),
    ],
)
def test_wrong_options_exit_with_2_and_one_line(
    jobs: list[Any], capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert cli.main(["quantize", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert jobs == []


def test_help_shows_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["quantize", "--help"])
    shown = capsys.readouterr().out
    for flag in ("--scheme", "--out", "--group-size", "--method", "--calibration", "--max-quality-loss"):
        assert flag in shown


def test_the_root_is_left_to_the_process_to_refuse(jobs: list[Any]) -> None:
    assert cli.main(["quantize", "m", "--out", "/"]) == 3
    assert jobs[0][1]["out"] == "/"
