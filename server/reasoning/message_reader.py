"""MessageReader: a reader of text that consists of messages, whose headers say what is thought, answer or tool call."""

import re
from abc import ABC, abstractmethod
from enum import Enum, auto
from typing import ClassVar

from server.reasoning.marks import partial_mark

_MESSAGE = "<|message|>"
_RECIPIENT_ALONE = re.compile(r"\s*to=\S*\s*")  # of a header that was cut off behind the prompt's part of it


class TextSection(Enum):
    """A section of the text: a header, or what follows it."""

    HEADER = auto()
    ANALYSIS = auto()
    ANSWER = auto()
    CALL = auto()


class MessageReader(ABC):
    """A ReasoningReader for text that consists of messages. A header ends with <|message|>.

    Thoughts are reasoning, other messages are content, without headers and ends. A line break separates two messages
    of the same kind. A tool call is content with its marks, for the tool parser: its header in one form, and the mark
    that ends calls. A call at the end of the text gets no such mark if the model has written none, since it may be cut
    off. Text outside of messages is content. An incomplete header at the end is dropped.
    """

    # Marks that end messages; that begin headers; that begin a header behind a message without an end; that end calls
    ENDS: ClassVar[tuple[str, ...]]
    HEADER_STARTS: ClassVar[tuple[str, ...]]
    NEXT_HEADERS: ClassVar[tuple[str, ...]]
    CALL_END: ClassVar[str]

    def __init__(self, *, is_open: bool) -> None:
        """is_open: whether the prompt ends inside a thought."""
        self._pending = ""
        self._part = TextSection.ANALYSIS if is_open else TextSection.HEADER
        self._sent_parts: set[TextSection] = set()
        self._is_new = True  # no text of the message was sent
        self._body_marks = (*self.ENDS, *self.NEXT_HEADERS)
        self._body_end = re.compile("|".join(map(re.escape, self._body_marks)))

    @abstractmethod
    def _open(self, header: str, /) -> tuple[TextSection, str]:
        """Return the part that follows a header, and a call's header for the tool parser, else "". header: without
        <|message|>."""

    @property
    def is_thinking(self) -> bool:
        return self._part is TextSection.ANALYSIS

    def push(self, text: str) -> tuple[str, str]:
        self._pending += text
        reasoning: list[str] = []
        content: list[str] = []
        while True:
            part = self._part
            piece = self._read_header() if part is TextSection.HEADER else self._read_body()
            (reasoning if part is TextSection.ANALYSIS else content).append(piece)
            if self._part is part:
                return "".join(reasoning), "".join(content)

    def finish(self) -> tuple[str, str]:
        pending, self._pending = self._pending, ""
        if self._part is TextSection.HEADER:
            is_header = pending.startswith((*self.NEXT_HEADERS, _MESSAGE)) or _RECIPIENT_ALONE.fullmatch(pending)
            return "", "" if is_header else pending
        text = self._apart(pending)
        return (text, "") if self._part is TextSection.ANALYSIS else ("", text)

    def check(self) -> None:
        """Assert that the only pending text is a header, or the possible beginning of a mark."""
        assert self._part is TextSection.HEADER or len(self._pending) == partial_mark(self._pending, self._body_marks)

    def _read_header(self) -> str:
        """Read a complete header, and set the part that follows it. Return its text if it starts a tool call."""
        text = self._pending.lstrip()
        if not any(text.startswith(start) or start.startswith(text) for start in self.HEADER_STARTS):
            self._part = TextSection.ANSWER
            return ""
        header, is_complete, rest = text.partition(_MESSAGE)
        if not is_complete:
            return ""
        self._pending = rest
        self._is_new = True
        self._part, opening = self._open(header)
        return opening

    def _read_body(self) -> str:
        part = self._part
        end = self._body_end.search(self._pending)
        if end is None:
            size = len(self._pending) - partial_mark(self._pending, self._body_marks)
            text, self._pending = self._pending[:size], self._pending[size:]
            return self._apart(text)
        text = self._apart(self._pending[: end.start()])
        self._pending = self._pending[end.end() if end[0] in self.ENDS else end.start() :]
        self._part = TextSection.HEADER
        return text + self.CALL_END if part is TextSection.CALL else text

    def _apart(self, text: str) -> str:
        """Return `text`, with a line break before it if it begins another message of the same kind."""
        if not text or not self._is_new or self._part is TextSection.CALL:
            return text
        self._is_new = False
        is_first = self._part not in self._sent_parts
        self._sent_parts.add(self._part)
        return text if is_first else "\n" + text
