"""Progress while the engine loads: bars on a terminal, lines in a log."""

import io
import logging
import sys
import threading

import pytest
from rich.console import Console

from engine.child_processes.log_format import StderrHandler
from engine.protocol import Loading
from server.commands.serve.loading_display import LoadingDisplay

pytestmark = pytest.mark.fast

LOADING = Loading("download model", 1_000_000, 2_000_000, "B")


class Terminal:
    """In place of a real one."""

    def __init__(self, screen: io.StringIO) -> None:
        self.console = Console(file=screen, force_terminal=True, width=100, color_system=None)
        self.lock = threading.Lock()
        self.is_given_back = False

    def give_back(self) -> None:
        self.is_given_back = True


def test_without_bars_the_log_has_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    LoadingDisplay(None).show(LOADING)
    assert caplog.messages == ["download model ..."]


def test_with_bars_the_log_has_none(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    screen = io.StringIO()
    terminal = Terminal(screen)
    display = LoadingDisplay(terminal)
    display.show(LOADING)
    display.close()
    assert terminal.is_given_back
    assert caplog.messages == []
    assert "1.0 MB of 2.0 MB" in screen.getvalue()


def test_messages_after_the_bars_go_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The engine may be started again long after; the terminal belongs to the log by then."""
    caplog.set_level(logging.INFO)
    display = LoadingDisplay(Terminal(io.StringIO()))
    display.close()
    display.show(LOADING)
    assert caplog.messages == ["download model ..."]


def test_log_lines_stand_above_the_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    display = LoadingDisplay(Terminal(screen))
    handler = StderrHandler()
    display.show(LOADING)
    handler.emit(logging.LogRecord("name", logging.INFO, "", 0, "a request was refused", (), None))
    display.close()
    assert "\na request was refused\n" in screen.getvalue().replace("\r", "\n").replace("\x1b[2K", "")
