"""BlockWriter: renders streamed Markdown on a terminal, block by block."""

import re

from rich.console import Console
from rich.live import Live
from rich.markdown import Markdown

# Control characters except tabs and newlines: in a model's output they could move the cursor, or set a title.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def without_control(text: str) -> str:
    return _CONTROL.sub("", text)


class BlockWriter:
    """A context manager that renders Markdown as it arrives. Complete blocks are printed once and the last block is
    redrawn, so text may be longer than the terminal. Without a terminal, text is written unchanged."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rest = ""
        self._live: Live | None = None

    def __enter__(self) -> "BlockWriter":
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="ellipsis", transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is None:
            self._console.file.write("\n")
            return
        self._live.update("", refresh=True)
        self._live.stop()
        if self._rest.strip():
            self._console.print(Markdown(self._rest))

    def write(self, text: str) -> None:
        if self._live is None:
            self._console.file.write(text)
            self._console.file.flush()
            return
        complete, self._rest = split_blocks(self._rest + without_control(text))
        if complete:
            self._console.print(Markdown(complete))
            self._console.print()
        self._live.update(Markdown(self._rest), refresh=True)


def split_blocks(text: str) -> tuple[str, str]:
    """Return (complete blocks, rest): the text is cut after the last blank line outside of code fences and lists."""
    end, position, fence = 0, 0, ""
    lines = text.splitlines(keepends=True)
    for index, line in enumerate(lines):
        stripped = line.strip()
        position += len(line)
        if fence:
            fence = "" if stripped.startswith(fence) and not stripped.strip(fence[0]) else fence
        elif stripped.startswith(("```", "~~~")):
            fence = stripped[: len(stripped) - len(stripped.lstrip(stripped[0]))]
        elif not stripped and line.endswith("\n") and _starts_block(lines[index + 1 :]):
            end = position
    return text[:end].rstrip("\n"), text[end:]


def _starts_block(lines: list[str]) -> bool:
    """Whether the next line that is not blank has arrived and starts a new block, not a list item or indented text."""
    following = next((line for line in lines if line.strip()), None)
    return following is not None and not following.startswith((" ", "\t", "-", "*", "+")) and not following[0].isdigit()
