"""SpanGate: how many spans may wait to be sent, and what became of all of them."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

logger = logging.getLogger(__name__)

EXPORTED, FAILED, DROPPED = "exported", "failed", "dropped"

_TELL_INTERVAL_S = 60.0
_MAX_REASON = 300  # characters


class SpanGate(SpanExporter):
    """Stands around an exporter. Traces pass as a whole or not at all, so none arrives in parts; a collector that is
    slow or gone costs the traces that find no room, and requests nothing.

    Invariant: the spans let in less those that the exporter is done with are at most `max_spans`.
    """

    def __init__(self, exporter: SpanExporter, max_spans: int, count_spans: Callable[[str, int], None]) -> None:
        self._exporter = exporter
        self._max_spans = max_spans
        self._count_spans = count_spans
        self._lock = threading.Lock()
        self._num_waiting = 0
        self._has_failed = False
        self._told_s = -_TELL_INTERVAL_S
        self._reasons = _FirstMessage()
        _redirect(logging.getLogger("opentelemetry.exporter"), self._reasons)

    def enter(self, num_spans: int) -> bool:
        """Let a trace's spans in, each of which is then handed to the exporter; False if there is no room for all."""
        with self._lock:
            if self._num_waiting + num_spans <= self._max_spans:
                self._num_waiting += num_spans
                return True
        self._count_spans(DROPPED, num_spans)
        return False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Called by the thread that sends."""
        result = SpanExportResult.FAILURE
        self._reasons.message = ""
        try:
            result = self._exporter.export(spans)
        finally:
            with self._lock:
                self._num_waiting -= len(spans)
            is_exported = result is SpanExportResult.SUCCESS
            self._count_spans(EXPORTED if is_exported else FAILED, len(spans))
            self._tell(is_exported)
        return result

    def _tell(self, is_exported: bool) -> None:
        """Log that the collector does not take spans, once a minute, and that it does again."""
        now_s = time.monotonic()
        if is_exported:
            if self._has_failed:
                logger.info("the collector takes traces again")
            self._has_failed, self._told_s = False, now_s - _TELL_INTERVAL_S
        elif now_s - self._told_s >= _TELL_INTERVAL_S:
            self._has_failed, self._told_s = True, now_s
            reason = self._reasons.message or "no reason was given"
            logger.warning("the collector does not take traces, which are lost meanwhile: %s", reason[:_MAX_REASON])

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class _FirstMessage(logging.Handler):
    """Remembers what was logged first: the cause of a failure, where what follows is that it was given up."""

    message = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.message = self.message or record.getMessage()


def _redirect(loggers: logging.Logger, handler: logging.Handler) -> None:
    """Have a library's loggers write to the handler alone: it would log every try."""
    loggers.handlers[:] = [handler]
    loggers.propagate = False
