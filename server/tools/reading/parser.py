"""ToolParser: the parser of one answer, and the events that it returns."""

from collections.abc import Callable
from dataclasses import dataclass

from server.tools.reading.text_reader import Steps, TextReader


@dataclass(frozen=True, slots=True)
class AnswerText:
    """A piece of the answer outside of all calls."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """The start of a call, sent when its name is known."""

    name: str
    id: str | None = None  # if the format has an id before the arguments


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of the arguments' JSON text."""

    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """The end of a call. Its arguments, joined, are one JSON value, unless the text ended within them."""


ToolEvent = AnswerText | CallStart | CallArguments | CallEnd


class CallEventLog:
    """The events of one answer. White space after text is held back until it is clear what follows.

    Before a call, the white space that the template itself writes there is dropped, so that the rendered answer is the
    same text again. White space alone, before, between or after calls, is dropped too.
    """

    def __init__(self, after_text: str | None) -> None:
        """after_text: white space that the template writes between text and a call; None if it drops such text."""
        self._after_text = after_text
        self._events: list[ToolEvent] = []
        self._space: list[str] = []
        self._has_text = False  # since the start of the answer or the last call
        self._has_calls = False

    def text(self, text: str) -> None:
        stripped = text.rstrip()
        if stripped:
            self._add_text("".join(self._space) + stripped)
            self._space.clear()
            self._has_text = True
        if len(stripped) < len(text):
            self._space.append(text[len(stripped) :])

    def start(self, name: str, call_id: str | None = None) -> None:
        space = "".join(self._space)
        if self._has_text and self._after_text is not None and space.endswith(self._after_text):
            self._add_text(space.removesuffix(self._after_text))
        self._space.clear()
        self._has_text = False
        self._has_calls = True
        self._events.append(CallStart(name, call_id))

    def arguments(self, text: str) -> None:
        self._add(CallArguments, text)

    def end(self) -> None:
        self._events.append(CallEnd())

    def finish(self) -> None:
        """Add the white space at the end of the answer to its text, unless it follows a call."""
        if self._has_text or not self._has_calls:
            self._add_text("".join(self._space))
        self._space.clear()

    @property
    def held(self) -> str:
        """White space that is held back."""
        return "".join(self._space)

    def take(self) -> list[ToolEvent]:
        events, self._events = self._events, []
        return events

    def _add_text(self, text: str) -> None:
        self._add(AnswerText, text)

    def _add(self, kind: type[AnswerText] | type[CallArguments], text: str) -> None:
        """Add the text to the last event if that is of this kind, else as a new event."""
        if text and self._events and isinstance(last := self._events[-1], kind):
            self._events[-1] = kind(last.text + text)
        elif text:
            self._events.append(kind(text))


class ToolParser:
    """The incremental parser of one answer. Text may arrive in any pieces: joined, the events are the same."""

    def __init__(self, read: Callable[[TextReader, CallEventLog], Steps[object]], *, after_text: str | None) -> None:
        """read: consumes the text and logs its events until the text has ended. after_text: the template's
        white space between text and a call; None if it drops such text."""
        self._reader = TextReader()
        self._log = CallEventLog(after_text)
        self._steps = read(self._reader, self._log)
        next(self._steps, None)

    def push(self, text: str) -> list[ToolEvent]:
        """Return the events that `text` completes."""
        assert not self._reader.has_ended, "the text has ended"
        if text:
            self._reader.feed(text)
            next(self._steps, None)
        return self._log.take()

    @property
    def held(self) -> str:
        """Text outside of calls that is held back, since it may begin a call or precede one."""
        return self._log.held + self._reader.held

    def finish(self) -> list[ToolEvent]:
        """Return the last events of the answer. Nothing may be pushed after this call."""
        self._reader.end()
        next(self._steps, None)
        self._log.finish()
        return self._log.take()
