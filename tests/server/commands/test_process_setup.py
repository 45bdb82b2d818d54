"""A home folder for a user without an entry in /etc/passwd."""

import os
import pwd
from pathlib import Path

import pytest

from server.commands.process_setup import ensure_home

pytestmark = pytest.mark.fast


def test_an_unknown_user_without_home_gets_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: int) -> None:
        raise KeyError

    monkeypatch.setenv("HOME", "set so that it is restored")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    ensure_home()
    assert Path("~/.cache").expanduser() == Path("/.cache")


def test_a_known_user_keeps_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    ensure_home()
    assert Path("~").expanduser() == Path("/somewhere")
    monkeypatch.delenv("HOME")
    ensure_home()
    assert Path("~").expanduser() == Path(pwd.getpwuid(os.getuid()).pw_dir)
