"""LineLimits: ends a completion in an editor where its lines leave the block, or when it has taken long enough."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LineOptions:
    """llama-server's n_indent and t_max_predict_ms."""

    min_indent: int = 0  # blanks that every line after the first begins with; 0 is off
    max_s: float = 0.0  # from the first token, if a line is complete by then; 0 is off

    def limits(self) -> "LineLimits | None":
        return LineLimits(self) if self.min_indent or self.max_s else None


class LineLimits:
    """Follows one text. Empty lines may have any indentation."""

    def __init__(self, options: LineOptions, clock: Callable[[], float] = time.monotonic) -> None:
        self._options = options
        self._clock = clock
        self._begun_s: float | None = None
        self._has_line = False  # a line is complete
        self._indent: int | None = None  # of the line, while only blanks of it have come
        self.is_reached = False

    def push(self, text: str) -> str:
        """What belongs to the text. Once `is_reached`, nothing more may be pushed."""
        assert not self.is_reached
        if self._begun_s is None:
            self._begun_s = self._clock()
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
        self.is_reached = bool(max_s) and self._has_line and self._clock() - self._begun_s >= max_s
        return text
