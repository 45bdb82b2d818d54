"""EventLog: the events of a parser, without the white space that only separates text and calls."""

from server.tools.format import AnswerText, CallArguments, CallEnd, CallStart, ToolEvent


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
        if not text:
            return
        if self._events and isinstance(last := self._events[-1], CallArguments):
            self._events[-1] = CallArguments(last.text + text)
        else:
            self._events.append(CallArguments(text))

    def end(self) -> None:
        self._events.append(CallEnd())

    def finish(self) -> None:
        """Add the white space at the end of the answer to its text, unless it follows a call."""
        if self._has_text or not self._has_calls:
            self._add_text("".join(self._space))
        self._space.clear()

    def take(self) -> list[ToolEvent]:
        events = self._events
        self._events = []
        return events

    def _add_text(self, text: str) -> None:
        if not text:
            return
        if self._events and isinstance(last := self._events[-1], AnswerText):
            self._events[-1] = AnswerText(last.text + text)
        else:
            self._events.append(AnswerText(text))
