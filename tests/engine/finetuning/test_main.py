"""The trainer as a program: what it says when it is told to end, and how soon it is gone."""

from pathlib import Path
from typing import Any

import pytest

from engine.finetuning import __main__ as program
from engine.finetuning import run as runs


def test_sigterm_ends_it_by_its_exit_status_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception would take the interpreter down, and torch with it, which takes long at the idle priority."""

    def train(*_: Any) -> None:
        raise SystemExit(143)

    monkeypatch.setattr(program, "exit_on_sigterm", lambda: None)
    monkeypatch.setattr(program, "end_with_parent", lambda: None)
    monkeypatch.setattr(runs, "train", train)

    assert program.main([str(tmp_path)]) == 143


@pytest.mark.parametrize(("out", "shown"), [(Path("/adapters/mine"), "/adapters/mine\n"), (None, "")])
def test_the_folder_of_an_adapter_that_stays_is_printed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    out: Path | None,
    shown: str,
) -> None:
    monkeypatch.setattr(program, "exit_on_sigterm", lambda: None)
    monkeypatch.setattr(program, "end_with_parent", lambda: None)
    monkeypatch.setattr(runs, "train", lambda *_: out)
    assert program.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == shown
