"""RequestLog: one line for each finished request, without prompt, answer, key, or the path as it was sent."""

import asyncio
import logging
import time

from engine.child_processes.log_format import with_fields
from server.metrics.request_record import RequestOutcome, RequestRecord
from server.paths import MONITORING

logger = logging.getLogger(__name__)

_FIRST = ("method", "route", "status")  # whose values start a line
_QUIET_ROUTES = MONITORING | {"/assets/{name:path}"}  # a page loads two dozen assets at once
# An open dashboard asks for these every second or two.
_POLLED = {"/dashboard/server", "/dashboard/log", "/dashboard/jobs", "/dashboard/jobs/{job_id}"}
# Refusals come as fast as clients send. Of each error code, those beyond the first in a window are only counted.
_MAX_REFUSALS = 10
_WINDOW_S = 10.0


class RequestLog:
    """Logs finished requests at INFO. Polls of monitoring and of an open dashboard are logged at DEBUG, and so are
    refusals after the first ten with the same error code within 10 s."""

    def __init__(self) -> None:
        self._refused: dict[str, int] = {}  # by error code, in the open window

    def log(self, record: RequestRecord) -> None:
        """Log a request. Called on the event loop, once for each request."""
        is_quiet = record.route in _QUIET_ROUTES or (record.route in _POLLED and record.status < 400)
        level = logging.DEBUG if is_quiet or self._is_one_of_many(record) else logging.INFO
        if not logger.isEnabledFor(level):
            return
        fields = _fields(record)
        rest = " ".join(f"{name}={value}" for name, value in fields.items() if name not in _FIRST)
        extra = with_fields(**fields)
        logger.log(level, "%s %s %d %s", record.method, record.route, record.status, rest, extra=extra)

    def _is_one_of_many(self, record: RequestRecord) -> bool:
        """Whether the request is a refusal, and the time window already has enough lines with the same error code."""
        if record.outcome is not RequestOutcome.REFUSED:
            return False
        if not self._refused:
            asyncio.get_running_loop().call_later(_WINDOW_S, self.close_window)
        code = record.error_code or "none"
        self._refused[code] = count = self._refused.get(code, 0) + 1
        return count > _MAX_REFUSALS

    def close_window(self) -> None:
        """Log the number of refusals that got no line of their own. The next refusal opens a new window."""
        refused, self._refused = self._refused, {}
        for code, count in refused.items():
            if count > _MAX_REFUSALS:
                num_omitted = count - _MAX_REFUSALS
                fields = with_fields(error=code, refusals=count, untold=num_omitted)
                logger.info(
                    "%d requests were refused in %g s with error=%s; %d have no line of their own",
                    count,
                    _WINDOW_S,
                    code,
                    num_omitted,
                    extra=fields,
                )


def _fields(record: RequestRecord) -> dict[str, object]:
    """Return the fields of the request's line, in order."""
    has_prompt, is_generation = record.num_choices or record.num_inputs, record.has_started and not record.num_inputs
    fields = {
        "method": record.method,
        "route": record.route,
        "status": record.status,
        "outcome": record.outcome.value,
        "request_id": record.request_id,
        "key": record.key_name,
        "client": record.client,
        "client_subject": record.client_subject,
        "error": record.error_code,
        "model": record.model_name if has_prompt else None,
        "prompt_tokens": record.prompt_tokens if has_prompt else None,
        "inputs": record.num_inputs or None,
        "cached_tokens": record.cached_tokens if is_generation else None,
        "output_tokens": record.output_tokens if is_generation else None,
        "choices": record.num_choices if record.num_choices > 1 else None,
        "ttft_s": None if record.first_token_s is None else round(record.first_token_s, 4),
        "duration_s": round(time.monotonic() - record.arrival_s, 4),
        "trace_id": record.trace_id,
        "finish": ",".join(record.finish_reasons) or None,
    }
    return {name: value for name, value in fields.items() if value is not None}
