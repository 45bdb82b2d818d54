"""SharedTerminal: a terminal on which bars are drawn while other processes write to it.

The engine process, compilers and native code write to the stderr that they inherit. While bars are drawn, it is a pipe
whose lines are printed above the bars.
"""

import contextlib
import io
import os
import sys
import threading

from rich.console import Console
from rich.text import Text

from engine.child_processes.log_format import LogFormat

_STDERR = 2
_MARK = "\0headrace has the terminal back\0"  # marks the end of lines to print above the bars
_DRAIN_TIMEOUT_S = 2.0


class SharedTerminal:
    """Replaces stderr (file descriptor 2) by a pipe until `give_back`, and prints its lines above the bars. Child
    processes started meanwhile keep the pipe, so lines are forwarded as long as such a process lives. Hold `lock` while
    finishing the bars: rich would redraw them below a line printed meanwhile."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._is_drained = threading.Event()
        self._terminal = os.dup(_STDERR)
        os.set_inheritable(self._terminal, False)
        reading, writing = os.pipe()
        os.dup2(writing, _STDERR)
        os.close(writing)
        raw = io.FileIO(self._terminal, "w", closefd=False)
        file = io.TextIOWrapper(io.BufferedWriter(raw), encoding=sys.stderr.encoding, errors="backslashreplace")
        self.console = Console(file=file, highlight=False)
        threading.Thread(target=self._pass_on, args=(reading,), name="shared-terminal", daemon=True).start()

    def give_back(self) -> None:
        """Print all lines in the pipe, and make the terminal stderr again."""
        sys.stderr.flush()
        os.write(_STDERR, f"{_MARK}\n".encode())
        self._is_drained.wait(_DRAIN_TIMEOUT_S)
        os.dup2(self._terminal, _STDERR)

    def _pass_on(self, reading: int) -> None:
        with open(reading, encoding="utf-8", errors="replace") as lines, contextlib.suppress(OSError):  # it hung up
            for line in lines:
                text, mark, _ = line.rstrip("\n").partition(_MARK)
                if text or not mark:
                    with self.lock:
                        self.console.print(Text(text), soft_wrap=True)
                if mark:
                    self._is_drained.set()


def can_draw(log_format: LogFormat) -> bool:
    """Whether bars can be drawn: stderr is a capable terminal, and the log format is text."""
    console = Console(file=sys.stderr)
    return log_format is LogFormat.TEXT and sys.stderr.isatty() and not console.is_dumb_terminal
