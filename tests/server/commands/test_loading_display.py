"""Progress while the engine loads: bars on a terminal, lines in a log."""

import io
import logging
import sys

import pytest
from rich.console import Console

from engine.client.log_format import LogFormat, StderrHandler
from engine.protocol import Loading
from server.commands import loading_display
from server.commands.loading_display import LoadingBars, LoadingLog

pytestmark = pytest.mark.fast

STAGES = [
    Loading("download model", 0, 2_000_000, "B"),
    Loading("download model", 1_000_000, 2_000_000, "B"),
    Loading("download model", 2_000_000, 2_000_000, "B"),
    Loading("load weights", 3, 272, "tensors"),
    Loading("load weights", 272, 272, "tensors"),
    Loading("warm up", 0, 0, "steps"),
]


def test_log_has_a_line_for_a_stage_s_begin_and_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = LoadingLog()
    for loading in STAGES:
        log.show(loading)
    begun = ["download model ...", "load weights ...", "warm up ..."]
    assert [line for line in caplog.messages if line.endswith("...")] == begun
    assert [line.partition(" in ")[0] for line in caplog.messages if " in " in line] == [
        "download model: 2.0 MB",
        "load weights: 272 tensors",
    ]


def test_bars_show_each_stage_once_and_complete(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    screen = io.StringIO()
    bars = LoadingBars(Console(file=screen, force_terminal=True, width=100, color_system=None))
    for loading in STAGES:
        bars.show(loading)
    bars.close()
    final = screen.getvalue().rpartition("✓ download model")[2].splitlines()
    assert "2.0 MB of 2.0 MB" in final[0]
    assert final[1].startswith("✓ load weights")
    assert "272 of 272 tensors" in final[1]
    assert final[2].startswith("✓ warm up")  # done although its size was never known
    assert caplog.messages == []


def test_messages_after_the_bars_go_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The engine may be started again long after; the terminal belongs to the log by then."""
    caplog.set_level(logging.INFO)
    bars = LoadingBars(Console(file=io.StringIO(), force_terminal=True))
    bars.close()
    bars.show(STAGES[0])
    assert caplog.messages == ["download model ..."]


def test_bars_are_for_terminals_whose_lines_no_program_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading_display, "Console", lambda file: Console(file=file, force_terminal=True))
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(loading_display.loading_display(LogFormat.TEXT), LoadingBars)
    assert isinstance(loading_display.loading_display(LogFormat.JSON), LoadingLog)


def test_log_lines_stand_above_the_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    bars = LoadingBars(Console(file=screen, force_terminal=True, width=100, color_system=None))
    handler = StderrHandler()
    bars.show(STAGES[0])
    handler.emit(logging.LogRecord("name", logging.INFO, "", 0, "a request was refused", (), None))
    bars.close()
    assert "\na request was refused\n" in screen.getvalue().replace("\r", "\n").replace("\x1b[2K", "")
