"""A terminal with bars on it, to which other processes write."""

import os
import pty
import re
import subprocess
import sys

from tests.helpers.repository import ROOT

_CODE = """
import subprocess, sys
from engine.child_processes.log_format import LogFormat
from engine.protocol import Loading
from server.commands.serve.loading_display import loading_display
from server.commands.serve.shared_terminal import can_draw

assert can_draw(LogFormat.TEXT)
assert not can_draw(LogFormat.JSON)
display = loading_display(LogFormat.TEXT)
display.show(Loading("load weights", 1, 2, "B"))
subprocess.run(["sh", "-c", "echo a line of a child >&2; printf 'half ' >&2; echo a line >&2"], check=True)
late = subprocess.Popen(["sh", "-c", "read _; echo a late line >&2"], stdin=subprocess.PIPE)
display.show(Loading("load weights", 2, 2, "B"))
display.close()
sys.stderr.write("the end\\n")
late.communicate(b"go on\\n")
sys.stdin.read(1)
"""


def run(terminal: str) -> tuple[str, int]:
    """Return the text on the terminal, and the exit code."""
    master, slave = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": terminal, "COLUMNS": "80"}
    process = subprocess.Popen([sys.executable, "-c", _CODE], stdin=subprocess.PIPE, stderr=slave, env=environment)
    os.close(slave)
    shown = b""
    try:
        while chunk := os.read(master, 4096):
            shown += chunk
            if b"a late line" in shown and process.stdin is not None and not process.stdin.closed:
                process.stdin.close()
    except OSError:  # the terminal is closed at the other end
        pass
    if process.stdin is not None:
        process.stdin.close()
    os.close(master)
    return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", shown.decode()), process.wait(30)


def test_lines_of_other_processes_stand_above_the_bars_and_whole() -> None:
    shown, code = run("xterm")
    assert code == 0, shown
    lines = [line.strip() for line in re.split(r"[\r\n]+", shown)]
    for line in ("a line of a child", "half a line", "the end", "a late line"):
        assert line in lines
    assert any(line.startswith("✓ load weights") for line in lines)


def test_a_dumb_terminal_is_not_drawn_on() -> None:
    shown, code = run("dumb")
    assert code == 1
    assert "AssertionError" in shown
