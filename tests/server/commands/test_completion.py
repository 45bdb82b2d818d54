"""Shell completion: what a shell is answered, and the scripts that make it ask."""

import io
import subprocess
from pathlib import Path
from types import SimpleNamespace

import argcomplete
import pytest

from server import cli
from server.commands import completion
from server.commands.options.arguments import import_function
from server.commands.table import COMMANDS

pytestmark = pytest.mark.fast


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("model.gguf", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def answered(line: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The completions of `line`, as fish asks for them; descriptions are left out."""
    for name, value in {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_SHELL": "fish",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_DFS": "\t",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }.items():
        monkeypatch.setenv(name, value)
    # It takes file descriptor 9, which is a test runner's here.
    monkeypatch.setattr(argcomplete.CompletionFinder, "_init_debug_stream", lambda _: None)
    output, codes = io.StringIO(), list[int]()
    completion.answer_shell(output, codes.append)
    assert codes == [0]
    return sorted(each.partition("\t")[0].strip() for each in output.getvalue().splitlines())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("headrace ", list(COMMANDS)),
        ("headrace se", ["serve"]),
        ("headrace serve --max-model", ["--max-model-len"]),
        ("headrace serve --no-enable-pre", ["--no-enable-prefix-caching"]),
        ("headrace serve --quantization ", ["auto", "none", "fp8", "int8", "int4", "nf4"]),
        ("headrace serve --port ", []),
        ("headrace doctor --log", ["--log-format", "--log-level", "--log-requests"]),
        ("headrace keys new ann --budget-period ", ["day", "month"]),
        ("headrace bench ro", ["roofline"]),
        ("headrace bench latency --batch-si", ["--batch-size"]),
        ("headrace completion ", ["bash", "zsh", "fish"]),
        ("headrace bogus --", ["--help", "--version"]),
    ],
)
def test_words_are_what_the_grammar_takes(line: str, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert answered(line, monkeypatch) == sorted(expected)


@pytest.mark.usefixtures("folder")
def test_files_where_an_option_takes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert answered("headrace serve --config ", monkeypatch) == ["model.gguf", "models/", "notes.txt"]


def test_files_of_another_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "models" / "small.gguf").touch()
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=b""))  # nothing is cached
    assert answered("headrace serve models/s", monkeypatch) == ["models/small.gguf"]
    assert answered("headrace serve nowhere/", monkeypatch) == []


@pytest.mark.usefixtures("folder")
def test_a_model_is_a_folder_a_gguf_file_or_a_cached_one(monkeypatch: pytest.MonkeyPatch) -> None:
    cached = "owner/repo\t5\t2027-01-01T00:00:00Z\thub\nkernels\t5\t2027-01-01T00:00:00Z\tkernels\n"
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=cached.encode()))
    assert answered("headrace serve ", monkeypatch) == ["model.gguf", "models/", "owner/repo"]
    assert answered("headrace pull ow", monkeypatch) == ["owner/repo"]
    assert answered("headrace models remove ", monkeypatch) == ["kernels", "owner/repo"]


@pytest.mark.usefixtures("folder")
def test_lines_that_are_no_entries_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = "a warning\n\nowner/repo\t5\t2027-01-01T00:00:00Z\thub\nx\ty\n"
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=printed.encode()))
    assert answered("headrace models remove ", monkeypatch) == ["owner/repo"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_has_the_shell_ask_headrace(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert cli.COMPLETION_VARIABLE in script
    assert "headrace" in script


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", "csh"]) == 2
    assert "there is no shell 'csh'" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_s_grammar_is_its_own(name: str) -> None:
    assert import_function(COMMANDS[name].parser)().prog == f"headrace {name}"
