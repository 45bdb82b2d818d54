"""StepParser: a ToolParser whose work is one generator over a Reader."""

from collections.abc import Callable

from server.tools.event_log import EventLog
from server.tools.format import ToolEvent
from server.tools.reader import Reader, Steps


class StepParser:
    """Runs `read` as far as the text goes. `read` returns when the text has ended and all of it is consumed."""

    def __init__(self, read: Callable[[Reader, EventLog], Steps[None]], *, after_text: str | None) -> None:
        self._reader = Reader()
        self._log = EventLog(after_text)
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
