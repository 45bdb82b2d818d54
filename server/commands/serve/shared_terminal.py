"""SharedTerminal: a terminal that bars are drawn on while other processes write to it, without tearing them.

The engine's process, compilers and native code write to the standard error that they were given. While bars are drawn,
that is a pipe, and what comes through it is put above them, line by line.
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
_MARK = "\0headrace has the terminal back\0"  # in the pipe, behind what was written before that
_DRAIN_TIMEOUT_S = 2.0


class SharedTerminal:
    """From its making until `give_back`, file descriptor 2 is the pipe. Processes that were started meanwhile keep it,
    so lines are passed on for as long as one of them lives. lock: held, no line comes between; rich would draw its last
    bars anew below one, without the end of their line.
    """

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
        """What this process writes goes to the terminal itself again, after all that was written before."""
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
    """Whether stderr is a terminal that bars can be drawn on, and nobody asked for lines that programs read.

    To be asked before a SharedTerminal is made."""
    console = Console(file=sys.stderr)
    return log_format is LogFormat.TEXT and sys.stderr.isatty() and not console.is_dumb_terminal
