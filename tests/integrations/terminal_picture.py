"""converse and as_html: a program at a terminal of its own, and what its screen shows as a page."""

import html
import itertools
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence
from fcntl import ioctl

import pyte
from pyte.screens import Char

_COLUMNS, _LINES = 92, 34
_PROMPT = ">>> "
_TIMEOUT_S = 180.0
_STYLE = (
    "margin:0;padding:18px 22px;display:inline-block;background:#15191c;color:#e8edf0;font:14px/1.45 DejaVu Sans Mono"
)
_GROUND = "#262d32"  # behind what is written on black
_COLORS = {
    "black": "#56636c",
    "red": "#f07178",
    "green": "#7fd08a",
    "brown": "#e5a13c",
    "blue": "#7aa8ff",
    "magenta": "#d08ae8",
    "cyan": "#3fbcd6",
}


def converse(command: Sequence[str], questions: Sequence[str]) -> pyte.Screen:
    """Type each question when the program asks for one; the screen when it asks for more. Ends the program."""
    screen = pyte.Screen(_COLUMNS, _LINES)
    stream = pyte.ByteStream(screen)
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", _LINES, _COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    try:
        for question in questions:
            _wait_for_prompt(ours, stream, screen)
            os.write(ours, question.encode() + b"\n")
        _wait_for_prompt(ours, stream, screen)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return screen


def _wait_for_prompt(terminal: int, stream: pyte.ByteStream, screen: pyte.Screen) -> None:
    deadline_s = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline_s:
        if select.select([terminal], [], [], 0.5)[0]:
            stream.feed(os.read(terminal, 65536))
        elif screen.display[screen.cursor.y].rstrip() == _PROMPT.rstrip():
            return
    raise TimeoutError("\n".join(screen.display))


def as_html(screen: pyte.Screen) -> str:
    used = max((number for number, line in enumerate(screen.display) if line.strip()), default=0)
    lines = ["".join(_runs(screen, y)) for y in range(used + 1)]
    return f"<body style='margin:0'><pre style='{_STYLE}'>" + "\n".join(lines) + "</pre>"


def _runs(screen: pyte.Screen, y: int) -> Iterator[str]:
    """The line's cells; neighbors of one style are one element, else there are gaps between their backgrounds."""
    cells = (screen.buffer[y][x] for x in range(_COLUMNS))
    for style, run in itertools.groupby(cells, _style):
        text = html.escape("".join(cell.data for cell in run))
        yield f"<span style='{style}'>{text}</span>" if style else text


def _style(cell: Char) -> str:
    styles = []
    foreground, background = (cell.bg, cell.fg) if cell.reverse else (cell.fg, cell.bg)
    if foreground != "default":
        styles.append(f"color:{_COLORS.get(foreground, '#' + foreground)}")
    if background != "default":
        styles.append("padding:3px 0")  # else lines of one block have gaps between them
        styles.append(f"background:{_GROUND if background == 'black' else _COLORS.get(background, '#' + background)}")
    if cell.bold:
        styles.append("font-weight:700")
    if cell.italics:
        styles.append("font-style:italic")
    return ";".join(styles)
