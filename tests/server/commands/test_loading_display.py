"""Progress while the engine loads: bars on a terminal, lines in a log."""

import io
import logging
import sys

import pytest
from rich.console import Console

from engine.client.log_format import LogFormat, StderrHandler
from engine.jobs.stage_bars import StageBars
from engine.protocol import Loading
from server.commands import loading_display
from server.commands.loading_display import LoadingDisplay

pytestmark = pytest.mark.fast

LOADING = Loading("download model", 1_000_000, 2_000_000, "B")


def bars_on(screen: io.StringIO) -> StageBars:
    return StageBars(Console(file=screen, force_terminal=True, width=100, color_system=None))


def test_without_bars_the_log_has_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    LoadingDisplay(None).show(LOADING)
    assert caplog.messages == ["download model ..."]


def test_with_bars_the_log_has_none(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    screen = io.StringIO()
    display = LoadingDisplay(bars_on(screen))
    display.show(LOADING)
    display.close()
    assert caplog.messages == []
    assert "1.0 MB of 2.0 MB" in screen.getvalue()


def test_messages_after_the_bars_go_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The engine may be started again long after; the terminal belongs to the log by then."""
    caplog.set_level(logging.INFO)
    display = LoadingDisplay(bars_on(io.StringIO()))
    display.close()
    display.show(LOADING)
    assert caplog.messages == ["download model ..."]


@pytest.mark.parametrize(
    ("terminal", "log_format", "has_bars"),
    [("xterm", LogFormat.TEXT, True), ("xterm", LogFormat.JSON, False), ("dumb", LogFormat.TEXT, False)],
)
def test_bars_are_for_terminals_whose_lines_no_program_reads(
    terminal: str, log_format: LogFormat, has_bars: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(loading_display, "Console", lambda file: Console(file=screen, force_terminal=True))  # noqa: ARG005
    monkeypatch.setenv("TERM", terminal)
    display = loading_display.loading_display(log_format)
    display.show(LOADING)
    display.close()
    assert ("download model" in screen.getvalue()) == has_bars


def test_log_lines_stand_above_the_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    display = LoadingDisplay(bars_on(screen))
    handler = StderrHandler()
    display.show(LOADING)
    handler.emit(logging.LogRecord("name", logging.INFO, "", 0, "a request was refused", (), None))
    display.close()
    assert "\na request was refused\n" in screen.getvalue().replace("\r", "\n").replace("\x1b[2K", "")
