"""StepParser: a ToolParser that runs a generator over the text read so far."""

from collections.abc import Callable

from server.tools.format import ToolEvent
from server.tools.reading.event_log import CallEventLog
from server.tools.reading.text_reader import Steps, TextReader


class StepParser:
    """A parser that runs `read` as far as the text goes. `read` returns when all text is consumed and has ended."""

    def __init__(self, read: Callable[[TextReader, CallEventLog], Steps[None]], *, after_text: str | None) -> None:
        self._reader = TextReader()
        self._log = CallEventLog(after_text)
        self._steps = read(self._reader, self._log)
        next(self._steps, None)

    def push(self, text: str) -> list[ToolEvent]:
        assert not self._reader.has_ended, "the text has ended"
        if text:
            self._reader.feed(text)
            next(self._steps, None)
        return self._log.take()

    def finish(self) -> list[ToolEvent]:
        self._reader.end()
        next(self._steps, None)
        self._log.finish()
        return self._log.take()
