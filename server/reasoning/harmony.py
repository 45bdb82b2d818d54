"""HarmonyReader: a reader that separates thought and answer in the text of a model that writes Harmony (gpt-oss).

    <|channel|>analysis<|message|>THOUGHT<|end|>
    <|start|>assistant<|channel|>commentary<|message|>PREAMBLE<|end|>
    <|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>ARGUMENTS<|call|>
    <|start|>assistant<|channel|>final<|message|>ANSWER<|return|>

The prompt ends with <|start|>assistant. A recipient (to=...) may also stand before <|channel|>.
"""

import re
from enum import Enum, auto

from server.reasoning.marks import partial_mark

_START = "<|start|>"
_CHANNEL = "<|channel|>"
_MESSAGE = "<|message|>"
_CALL = "<|call|>"
_ENDS = ("<|end|>", "<|return|>", _CALL)
_HEADER_STARTS = (_START, _CHANNEL, _MESSAGE, "to=")
# A message without an end ends at the next header.
_BODY_MARKS = (*_ENDS, _START, _CHANNEL)
_BODY_END = re.compile("|".join(map(re.escape, _BODY_MARKS)))
_RECIPIENT = re.compile(r"\s*\bto=[^\s<]+")


class _Part(Enum):
    HEADER = auto()
    ANALYSIS = auto()
    ANSWER = auto()
    CALL = auto()


class HarmonyReader:
    """A ReasoningReader for text that consists of Harmony messages.

    Messages of the channel "analysis" are reasoning, other messages are content, without headers and ends. A line break
    separates two messages of the same kind. A message to a recipient is a tool call in any channel: it is content with
    its marks, for the tool parser, always with the recipient after the channel and <|call|> at its end. A call at the
    end of the text gets no <|call|> if the model has written none, since it may be cut off. Text outside of messages is
    content. An incomplete header at the end is dropped.
    """

    def __init__(self, *, is_open: bool) -> None:
        """is_open: whether the prompt ends inside a message of the channel "analysis"."""
        self._pending = ""
        self._part = _Part.ANALYSIS if is_open else _Part.HEADER
        self._sent_parts: set[_Part] = set()
        self._is_new = True  # no text of the message was sent

    @property
    def is_thinking(self) -> bool:
        return self._part is _Part.ANALYSIS

    def push(self, text: str) -> tuple[str, str]:
        self._pending += text
        reasoning: list[str] = []
        content: list[str] = []
        while True:
            part = self._part
            piece = self._read_header() if part is _Part.HEADER else self._read_body()
            (reasoning if part is _Part.ANALYSIS else content).append(piece)
            if self._part is part:
                return "".join(reasoning), "".join(content)

    def finish(self) -> tuple[str, str]:
        pending, self._pending = self._pending, ""
        if self._part is _Part.HEADER:
            return "", "" if pending.startswith((_START, _CHANNEL, _MESSAGE)) else pending
        text = self._apart(pending)
        return (text, "") if self._part is _Part.ANALYSIS else ("", text)

    def check(self) -> None:
        """Assert that the only pending text is a header, or the possible beginning of a mark."""
        assert self._part is _Part.HEADER or len(self._pending) == partial_mark(self._pending, _BODY_MARKS)

    def _read_header(self) -> str:
        """Read a complete header, and set the part that follows it. Return its text if it starts a tool call."""
        text = self._pending.lstrip()
        if not any(text.startswith(start) or start.startswith(text) for start in _HEADER_STARTS):
            self._part = _Part.ANSWER
            return ""
        header, is_complete, rest = text.partition(_MESSAGE)
        if not is_complete:
            return ""
        self._pending = rest
        self._is_new = True
        role, _, channel = header.partition(_CHANNEL)
        name = (channel.split(maxsplit=1) or [""])[0].partition("<")[0]
        if recipient := _RECIPIENT.search(channel) or _RECIPIENT.search(role):
            self._part = _Part.CALL
            others = _RECIPIENT.sub("", channel.strip().removeprefix(name)).strip()
            return f"{_CHANNEL}{name or 'commentary'} {recipient[0].strip()} {others}".rstrip() + _MESSAGE
        self._part = _Part.ANALYSIS if name == "analysis" else _Part.ANSWER
        return ""

    def _read_body(self) -> str:
        part = self._part
        end = _BODY_END.search(self._pending)
        if end is None:
            size = len(self._pending) - partial_mark(self._pending, _BODY_MARKS)
            text, self._pending = self._pending[:size], self._pending[size:]
            return self._apart(text)
        text = self._apart(self._pending[: end.start()])
        self._pending = self._pending[end.end() if end[0] in _ENDS else end.start() :]
        self._part = _Part.HEADER
        return text + _CALL if part is _Part.CALL else text

    def _apart(self, text: str) -> str:
        """Return `text`, with a line break before it if it begins another message of the same kind."""
        if not text or not self._is_new or self._part is _Part.CALL:
            return text
        self._is_new = False
        is_first = self._part not in self._sent_parts
        self._sent_parts.add(self._part)
        return text if is_first else "\n" + text
