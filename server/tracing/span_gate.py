"""SpanGate: an exporter that limits how many spans wait to be sent, and counts spans by outcome."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

logger = logging.getLogger(__name__)

EXPORTED, FAILED, DROPPED = "exported", "failed", "dropped"

_LOG_INTERVAL_S = 60.0
_MAX_REASON = 300  # characters


class SpanGate(SpanExporter):
    """Admission control around an exporter. A trace is admitted as a whole or not at all, so none arrives in parts.
    With a slow or missing collector, traces that do not fit are dropped; requests are never delayed.

    Invariant: at most `max_spans` spans are admitted and neither exported nor failed.
    """

    def __init__(self, exporter: SpanExporter, max_spans: int, count_spans: Callable[[str, int], None]) -> None:
        self._exporter = exporter
        self._max_spans = max_spans
        self._count_spans = count_spans
        self._lock = threading.Lock()
        self._num_waiting = 0
        self._has_failed = False
        self._logged_s = -_LOG_INTERVAL_S
        self._reasons = _FirstMessage()
        library = logging.getLogger("opentelemetry.exporter")  # it would log every try
        library.handlers[:], library.propagate = [self._reasons], False

    def admit(self, num_spans: int) -> bool:
        """Reserve room for a trace's spans, which the caller must then export; return False if there is not enough."""
        with self._lock:
            if self._num_waiting + num_spans <= self._max_spans:
                self._num_waiting += num_spans
                return True
        self._count_spans(DROPPED, num_spans)
        return False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans to the collector. Called by OpenTelemetry's export thread."""
        result = SpanExportResult.FAILURE
        self._reasons.message = ""
        try:
            result = self._exporter.export(spans)
        finally:
            with self._lock:
                self._num_waiting -= len(spans)
            is_exported = result is SpanExportResult.SUCCESS
            self._count_spans(EXPORTED if is_exported else FAILED, len(spans))
            self._log_result(is_exported)
        return result

    def _log_result(self, is_exported: bool) -> None:
        """Log at most once a minute that the collector does not accept spans, and once that it accepts them again."""
        now_s = time.monotonic()
        if is_exported:
            if self._has_failed:
                logger.info("the collector accepts traces again")
            self._has_failed, self._logged_s = False, now_s - _LOG_INTERVAL_S
        elif now_s - self._logged_s >= _LOG_INTERVAL_S:
            self._has_failed, self._logged_s = True, now_s
            reason = self._reasons.message or "no reason was given"
            logger.warning("the collector does not accept traces, which are lost: %s", reason[:_MAX_REASON])

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class _FirstMessage(logging.Handler):
    """A log handler that keeps the first message of a failed export: later ones lack the cause of the failure."""

    message = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.message = self.message or record.getMessage()
