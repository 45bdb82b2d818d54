"""What to type for `headrace`: found from how the program was started, and shown in texts in place of its name."""

from pathlib import Path

import pytest

from engine.command_io import program
from engine.command_io.program import as_typed, find_pip, find_program

pytestmark = pytest.mark.fast


def script(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "headrace"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def _empty_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def test_a_script_that_is_not_on_the_path_is_typed_as_a_path(tmp_path: Path) -> None:
    own = script(tmp_path / "clone" / ".venv" / "bin")
    assert find_program(str(own), "/usr/bin/python3", tmp_path / "clone") == ".venv/bin/headrace"
    assert find_program(str(own), "/usr/bin/python3", own.parent) == "./headrace"
    assert find_program(str(own), "/usr/bin/python3", tmp_path / "elsewhere") == str(own)


def test_a_path_is_quoted_for_the_shell(tmp_path: Path) -> None:
    own = script(tmp_path / "my clone")
    assert find_program(str(own), "/usr/bin/python3", tmp_path) == "'my clone/headrace'"


def test_a_script_on_the_path_is_typed_by_its_name(tmp_path: Path) -> None:
    own = script(tmp_path / "tools" / "bin")
    (tmp_path / "bin" / "headrace").symlink_to(own)  # as uv and pipx do
    assert find_program(str(tmp_path / "bin" / "headrace"), str(own.parent / "python"), tmp_path) == "headrace"
    assert find_program("-m", str(own.parent / "python"), tmp_path) == "headrace"


def test_another_installation_on_the_path_is_not_meant(tmp_path: Path) -> None:
    script(tmp_path / "bin")
    own = script(tmp_path / ".venv" / "bin")
    assert find_program(str(own), str(own.parent / "python"), tmp_path) == ".venv/bin/headrace"


def test_a_module_names_the_script_beside_its_python(tmp_path: Path) -> None:
    own = script(tmp_path / ".venv" / "bin")
    assert find_program("server/cli.py", str(own.parent / "python"), tmp_path) == ".venv/bin/headrace"


def test_without_a_script_the_module_is_named(tmp_path: Path) -> None:
    assert find_program("cli.py", "/opt/my python", tmp_path) == "'/opt/my python' -m server.cli"
    script(tmp_path / "bin")  # of an installation for one user, whose Python is the system's
    assert find_program("cli.py", "/usr/bin/python3", tmp_path) == "headrace"


def test_commands_are_replaced_and_prose_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "program", lambda: ".venv/bin/headrace")
    assert as_typed("headrace: it is broken (more: headrace doctor)") == (
        "headrace: it is broken (more: .venv/bin/headrace doctor)"
    )
    assert as_typed("a | headrace chat\nheadrace needs Linux; headrace --help") == (
        "a | .venv/bin/headrace chat\nheadrace needs Linux; .venv/bin/headrace --help"
    )
    assert as_typed(".venv/bin/headrace chat") == ".venv/bin/headrace chat"


def test_the_pip_of_a_virtual_environment_that_is_not_on_the_path_is_typed_as_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv = tmp_path / "clone" / ".venv"
    assert find_pip(str(venv), tmp_path) == "pip"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "pip").write_text("#!/bin/sh\n")
    (venv / "bin" / "pip").chmod(0o755)
    assert find_pip(str(venv), tmp_path / "clone") == ".venv/bin/pip"
    assert find_pip(str(venv), tmp_path / "elsewhere") == str(venv / "bin" / "pip")
    monkeypatch.setattr(program.sys, "prefix", str(venv))
    monkeypatch.chdir(tmp_path / "clone")
    assert as_typed("near needs pip: pip install rensa") == "near needs pip: .venv/bin/pip install rensa"
    monkeypatch.setenv("PATH", str(venv / "bin"))
    assert as_typed("pip install x") == "pip install x"
