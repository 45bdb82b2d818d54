"""LineLimits: ends an editor's completion at a line that leaves the code block, or after a time limit."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LineOptions:
    """Limits of an infill completion; llama-server's n_indent and t_max_predict_ms."""

    min_indent: int = 0  # blanks at the start of every line after the first; 0 is off
    max_s: float = 0.0  # seconds from the first token; applies once a line is complete; 0 is off

    def limits(self) -> "LineLimits | None":
        return LineLimits(self) if self.min_indent or self.max_s else None


class LineLimits:
    """Applies the limits to one text as it streams. Empty lines may have any indentation."""

    def __init__(self, options: LineOptions, clock: Callable[[], float] = time.monotonic) -> None:
        self._options = options
        self._clock = clock
        self._started_s: float | None = None
        self._has_line = False  # a line is complete
        self._indent: int | None = None  # of the current line, while it has only blanks
        self.is_reached = False

    def push(self, text: str) -> str:
        """Return `text`, cut at the limits. Nothing may be pushed once `is_reached`."""
        assert not self.is_reached
        if self._started_s is None:
            self._started_s = self._clock()
        for position, character in enumerate(text):
            if character == "\n":
                self._has_line, self._indent = True, 0
            elif self._indent is not None and character in " \t":
                self._indent += 1
            elif self._indent is not None:
                if self._indent < self._options.min_indent:
                    self.is_reached = True
                    return text[:position]
                self._indent = None
        max_s = self._options.max_s
        self.is_reached = bool(max_s) and self._has_line and self._clock() - self._started_s >= max_s
        return text
