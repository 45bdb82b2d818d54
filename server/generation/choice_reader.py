"""ChoiceReader: parses a choice's text into reasoning, content and tool calls as it streams."""

import secrets
import string
from dataclasses import dataclass

from server.metrics.values import Metrics
from server.reasoning.reader import ReasoningReader
from server.tools.reading.json_reader import json_of
from server.tools.reading.parser import AnswerText, CallArguments, CallEnd, CallStart, ToolEvent, ToolParser

_ID_CHARACTERS = string.ascii_letters + string.digits
_ID_LENGTH = 24


@dataclass(frozen=True, slots=True)
class Thought:
    text: str


@dataclass(frozen=True, slots=True)
class Content:
    text: str


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A piece of tool call number `index`. Only a call's first piece has its name and id."""

    index: int
    arguments: str
    name: str | None = None
    id: str | None = None


ChoicePiece = Thought | Content | CallPiece


def join_pieces(pieces: list[ChoicePiece]) -> list[ChoicePiece]:
    """Merge adjacent pieces of the same kind, so that text of one engine output is sent as one piece."""
    result: list[ChoicePiece] = []
    for piece in pieces:
        match result[-1] if result else None, piece:
            case (Thought(text=first), Thought(text=second)):
                result[-1] = Thought(first + second)
            case (Content(text=first), Content(text=second)):
                result[-1] = Content(first + second)
            case (CallPiece(index=index, name=None, arguments=first), CallPiece(arguments=second, name=None)):
                result[-1] = CallPiece(index, first + second)
            case _:
                result.append(piece)
    return result


class ChoiceReader:
    """Streaming parser of one choice. Whitespace between content and a tool call is dropped."""

    def __init__(
        self,
        reasoning: ReasoningReader | None,
        tools: ToolParser | None,
        *,
        metrics: Metrics,
        format_name: str = "",
        call_id_length: int | None = None,
    ) -> None:
        """format_name: tool-call format, for metrics. call_id_length: length of call ids that the template requires."""
        self._reasoning = reasoning
        self._tools = tools
        self._metrics = metrics
        self._format_name = format_name
        self._call_id_length = call_id_length
        self._pending_space = ""
        self._num_calls = 0
        self._arguments: list[str] = []  # of the last call
        self._is_calling = False  # within a call
        self._follows_content = False  # the last piece is content
        self._last = ""  # content, with its calls, of the last push
        self.is_within_call = False  # the answer ended within the last call's arguments

    @property
    def is_thinking(self) -> bool:
        return self._reasoning is not None and self._reasoning.is_thinking

    @property
    def may_be_calling(self) -> bool:
        """Whether the text last pushed belongs to a call, or may turn out to. White space does before and after
        calls."""
        if self._tools is None:
            return False
        if self._is_calling or self._tools.held.strip():
            return True
        return bool(self._last) and not self._follows_content

    def push(self, text: str, *, is_last: bool = False) -> list[ChoicePiece]:
        """Parse more text, and return its pieces. is_last: no more text follows, so pending text is flushed."""
        pieces = self._read(text, is_last=is_last)
        if pieces:
            self._follows_content = isinstance(pieces[-1], Content)
        return pieces

    def _read(self, text: str, *, is_last: bool) -> list[ChoicePiece]:
        thought, content = ("", text) if self._reasoning is None else self._reasoning.push(text)
        if is_last and self._reasoning is not None:
            rest = self._reasoning.finish()
            thought, content = thought + rest[0], content + rest[1]
        pieces: list[ChoicePiece] = [Thought(thought)] if thought else []
        self._last = content
        if self._tools is None:
            return [*pieces, Content(content)] if content else pieces
        events = self._tools.push(content) if content else []
        if is_last:
            events += self._tools.finish()
        for event in events:
            pieces += self._of_event(event)
        if is_last and self._pending_space and not self._num_calls:
            pieces.append(Content(self._pending_space))
        return pieces

    def _of_event(self, event: ToolEvent) -> list[ChoicePiece]:
        match event:
            case AnswerText(text=text):
                return self._content(text)
            case CallStart(name=name, id=call_id):
                self._pending_space = ""
                self._arguments = []
                self._num_calls += 1
                self._is_calling = True
                return [CallPiece(self._num_calls - 1, "", name, call_id or self._new_id())]
            case CallArguments(text=text):
                self._arguments.append(text)
                return [CallPiece(self._num_calls - 1, text)] if text else []
            case CallEnd():
                self._is_calling = False
                self.is_within_call = json_of("".join(self._arguments)) is None
                outcome = "incomplete" if self.is_within_call else "complete"
                self._metrics.add("tool_calls_total", 1, self._format_name, outcome)
        return []

    def _content(self, text: str) -> list[ChoicePiece]:
        text = self._pending_space + text
        shown = text.rstrip()
        self._pending_space = text[len(shown) :]
        if not self._num_calls or shown:
            return [Content(shown)] if shown else []
        return []

    def _new_id(self) -> str:
        length = self._call_id_length
        prefix = "call_" if length is None else ""
        return prefix + "".join(secrets.choice(_ID_CHARACTERS) for _ in range(length or _ID_LENGTH))
