"""Reader: the text of an answer that is still arriving, read by generators that pause where it ends so far."""

import re
from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")
# Yields where more text is needed, and is resumed when there is some or the text has ended.
Steps = Generator[None, None, T]

_SPACE = re.compile(r"\s+")


class Reader:
    """Consumes a text once, from its beginning. What a step finds depends on the text alone, not on how it arrives.

    Unread text is short where the reading steps keep up, so each new piece costs about its own length.
    """

    def __init__(self) -> None:
        self._text = ""
        self._position = 0
        self._has_ended = False
        self._recorded: list[str] | None = None

    def feed(self, text: str) -> None:
        self._text = self._text[self._position :] + text
        self._position = 0

    def end(self) -> None:
        self._has_ended = True

    @property
    def is_exhausted(self) -> bool:
        """Whether all text so far is consumed."""
        return self._position == len(self._text)

    @property
    def unread(self) -> str:
        return self._text[self._position :]

    @property
    def has_ended(self) -> bool:
        """Whether no text will follow what is unread."""
        return self._has_ended

    def record(self) -> None:
        """From here on consumed text is remembered, and what was remembered before is forgotten."""
        self._recorded = []

    def recorded(self) -> str:
        """The text consumed since `record`; it is remembered no longer."""
        text = "".join(self._recorded or ())
        self._recorded = None
        return text

    def forget(self) -> None:
        self._recorded = None

    def peek(self) -> Steps[str]:
        """The next character, or "" at the end."""
        while self._position == len(self._text):
            if self._has_ended:
                return ""
            yield
        return self._text[self._position]

    def take(self, count: int = 1) -> str:
        """Consumes characters that are known to be there."""
        text = self._text[self._position : self._position + count]
        self._position += count
        if self._recorded is not None:
            self._recorded.append(text)
        return text

    def take_all(self) -> str:
        """Consumes all text so far."""
        return self.take(len(self._text) - self._position)

    def take_run(self, pattern: re.Pattern[str]) -> str:
        """Consumes what matches here, of the text so far; the next piece may go on with it."""
        match = pattern.match(self._text, self._position)
        return self.take(len(match.group())) if match else ""

    def read_run(self, pattern: re.Pattern[str]) -> Steps[str]:
        """Consumes characters as long as each matches `pattern`."""
        runs = []
        while (char := (yield from self.peek())) and pattern.match(char):
            runs.append(self.take_run(pattern) or self.take())
        return "".join(runs)

    def skip_space(self) -> Steps[None]:
        yield from self.read_run(_SPACE)

    def sees(self, word: str) -> Steps[bool]:
        """Whether `word` follows; nothing is consumed."""
        for index, char in enumerate(word):
            while self._position + index >= len(self._text):
                if self._has_ended:
                    return False
                yield
            if self._text[self._position + index] != char:
                return False
        return True

    def skip(self, word: str) -> Steps[bool]:
        """Consumes `word` if it follows, else nothing; returns whether it does."""
        if not (yield from self.sees(word)):
            return False
        self.take(len(word))
        return True

    def read_until(self, marks: "Marks | None", emit: Callable[[str], object]) -> Steps[str | None]:
        """Consumes and emits text up to the first mark, which it returns and leaves unread; None: there is none."""
        while (yield from self.peek()):
            if marks is None:
                start, mark = len(self._text), None
            else:
                start, mark = marks.find(self._text, self._position, has_ended=self._has_ended)
            emit(self.take(start - self._position))
            if mark is not None:
                return mark
            if not self.is_exhausted:
                # The beginning of a mark, perhaps.
                yield
        return None


class Marks:
    """Texts to be looked for; the longest counts where two begin at the same place."""

    def __init__(self, texts: tuple[str, ...]) -> None:
        longest_first = sorted(texts, key=len, reverse=True)
        # A mark, or the beginning of one that the end of the text cuts off.
        beginnings = [_beginning(text) for text in longest_first]
        self._pattern = re.compile("|".join(beginnings))
        self._whole = frozenset(texts)

    def find(self, text: str, position: int, *, has_ended: bool) -> tuple[int, str | None]:
        """Where the first mark begins and which it is; else where a mark may have begun, at the latest the end."""
        while match := self._pattern.search(text, position):
            if match.group() in self._whole:
                return match.start(), match.group()
            if not has_ended:
                return match.start(), None
            position = match.start() + 1
        return len(text), None


def _beginning(text: str) -> str:
    r"""Matches `text`, or what there is of it at the end: "ab" -> a(?:b|\Z)."""
    pattern = ""
    for char in reversed(text[1:]):
        pattern = f"(?:{re.escape(char)}{pattern}|\\Z)"
    return re.escape(text[0]) + pattern
