"""TextReader: buffers an answer's text while it arrives, for generators that pause until there is more."""

import re
from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")
# A generator that yields when it needs more text, and is resumed when there is more or the text has ended
Steps = Generator[None, None, T]

_SPACE = re.compile(r"\s+")


class TextReader:
    """A text that is consumed once, from its beginning. Results depend only on the text, not on how it arrives.

    Generators that read all they can keep the unread text short, so each new piece costs about its own length.
    """

    def __init__(self) -> None:
        self._text = ""
        self._position = 0
        self.has_ended = False  # no text will follow the unread text
        self._recorded: list[str] | None = None

    def feed(self, text: str) -> None:
        self._text = self._text[self._position :] + text
        self._position = 0

    def end(self) -> None:
        self.has_ended = True

    @property
    def is_exhausted(self) -> bool:
        """Whether all text that has arrived is consumed."""
        return self._position == len(self._text)

    @property
    def unread(self) -> str:
        return self._text[self._position :]

    @property
    def held(self) -> str:
        """Text that is recorded or unread."""
        return "".join(self._recorded or ()) + self.unread

    def record(self) -> None:
        """Start recording the text that is consumed; an earlier recording is dropped."""
        self._recorded = []

    def recorded(self) -> str:
        """Return the text consumed since `record`, and stop recording."""
        text = "".join(self._recorded or ())
        self._recorded = None
        return text

    def stop_recording(self) -> None:
        self._recorded = None

    def peek(self) -> Steps[str]:
        """Return the next character, or "" at the end of the text."""
        while self._position == len(self._text):
            if self.has_ended:
                return ""
            yield
        return self._text[self._position]

    def take(self, count: int = 1) -> str:
        """Consume and return `count` characters, which must have arrived."""
        text = self._text[self._position : self._position + count]
        self._position += count
        if self._recorded is not None:
            self._recorded.append(text)
        return text

    def take_all(self) -> str:
        """Consume all text that has arrived."""
        return self.take(len(self._text) - self._position)

    def take_run(self, pattern: re.Pattern[str]) -> str:
        """Consume the match of `pattern` at this position, in the text so far. Later text may extend the match."""
        match = pattern.match(self._text, self._position)
        return self.take(len(match.group())) if match else ""

    def read_run(self, pattern: re.Pattern[str]) -> Steps[str]:
        """Consume characters as long as each matches `pattern`."""
        runs = []
        while (char := (yield from self.peek())) and pattern.match(char):
            runs.append(self.take_run(pattern) or self.take())
        return "".join(runs)

    def skip_space(self) -> Steps[None]:
        yield from self.read_run(_SPACE)

    def sees(self, word: str) -> Steps[bool]:
        """Return whether `word` follows. Nothing is consumed."""
        for index, char in enumerate(word):
            while self._position + index >= len(self._text):
                if self.has_ended:
                    return False
                yield
            if self._text[self._position + index] != char:
                return False
        return True

    def skip(self, word: str) -> Steps[bool]:
        """Consume `word` if it follows, and return whether it does."""
        if not (yield from self.sees(word)):
            return False
        self.take(len(word))
        return True

    def read_until(self, marks: "Marks | None", emit: Callable[[str], object]) -> Steps[str | None]:
        """Consume and emit the text up to the first mark; return the mark, which stays unread, or None if none came."""
        while (yield from self.peek()):
            if marks is None:
                start, mark = len(self._text), None
            else:
                start, mark = marks.find(self._text, self._position, has_ended=self.has_ended)
            emit(self.take(start - self._position))
            if mark is not None:
                return mark
            if not self.is_exhausted:
                # Perhaps the beginning of a mark
                yield
        return None


class Marks:
    """Texts to search for. If two begin at the same position, the longest is found."""

    def __init__(self, texts: tuple[str, ...]) -> None:
        longest_first = sorted(texts, key=len, reverse=True)
        # A mark, or the beginning of a mark that the end of the text cuts off
        beginnings = [_beginning(text) for text in longest_first]
        self._pattern = re.compile("|".join(beginnings))
        self._whole = frozenset(texts)

    def find(self, text: str, position: int, *, has_ended: bool) -> tuple[int, str | None]:
        """Return the position of the first mark, and the mark. If there is none, return None for the mark, and the
        position of its possible beginning at the end of the text, or else the end."""
        while match := self._pattern.search(text, position):
            if match.group() in self._whole:
                return match.start(), match.group()
            if not has_ended:
                return match.start(), None
            position = match.start() + 1
        return len(text), None


def _beginning(text: str) -> str:
    r"""Return a pattern for `text`, or for a prefix of it where the searched text ends: "ab" -> a(?:b|\Z)."""
    pattern = ""
    for char in reversed(text[1:]):
        pattern = f"(?:{re.escape(char)}{pattern}|\\Z)"
    return re.escape(text[0]) + pattern
