"""LoadingDisplay: shows the progress of loading, as bars on a terminal or as log lines."""

import logging
import threading
from typing import Protocol

from rich.console import Console

from engine.child_processes.log_format import LogFormat
from engine.command_io.stage_bars import StageBars
from engine.command_io.stage_lines import StageLines
from engine.protocol import Loading
from server.commands.serve.shared_terminal import SharedTerminal, can_draw

logger = logging.getLogger(__name__)


class _Terminal(Protocol):
    console: Console
    lock: threading.Lock

    def give_back(self) -> None: ...


class LoadingDisplay:
    """Shows Loading messages as bars, if there is a terminal. After `close`, shows log lines."""

    def __init__(self, terminal: _Terminal | None) -> None:
        self._terminal = terminal
        self._bars = None if terminal is None else StageBars(terminal.console)
        self._lines = StageLines(lambda line: logger.info("%s", line))

    def show(self, loading: Loading) -> None:
        show = self._lines if self._bars is None else self._bars
        show(loading.stage, loading.done, loading.total, loading.unit)

    def close(self) -> None:
        """Finish the bars, and give the terminal back to the log."""
        if self._bars is not None and self._terminal is not None:
            with self._terminal.lock:
                self._bars.close()
            self._terminal.give_back()
            self._bars = self._terminal = None


def loading_display(log_format: LogFormat) -> LoadingDisplay:
    """Create a display, with bars if stderr is a capable terminal and the log format is text."""
    return LoadingDisplay(SharedTerminal() if can_draw(log_format) else None)
