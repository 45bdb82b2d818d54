"""log_request: one line for a request that is over, without prompt, answer, key, or the path as it was sent."""

import logging
import time

from engine.client.log_format import with_fields
from server.metrics.request_record import RequestRecord

logger = logging.getLogger(__name__)

_QUIET_ROUTES = frozenset({"/live", "/ready", "/health", "/metrics"})  # asked for every few seconds, for ever


def log_request(record: RequestRecord, model_name: str) -> None:
    """At INFO; at DEBUG for what monitoring asks for."""
    level = logging.DEBUG if record.route in _QUIET_ROUTES else logging.INFO
    if not logger.isEnabledFor(level):
        return
    fields = _fields(record, model_name)
    told = " ".join(f"{name}={value}" for name, value in fields.items() if name not in ("method", "route", "status"))
    extra = with_fields(**fields)
    logger.log(level, "%s %s %d %s", record.method, record.route, record.status, told, extra=extra)


def _fields(record: RequestRecord, model_name: str) -> dict[str, object]:
    """What is known of the request, in the order of its line."""
    fields: dict[str, object] = {
        "method": record.method,
        "route": record.route,
        "status": record.status,
        "outcome": record.outcome.value,
        "request_id": record.request_id,
    }
    if record.error_code is not None:
        fields["error"] = record.error_code
    if record.num_choices:
        fields |= {"model": model_name, "prompt_tokens": record.prompt_tokens}
    if record.has_begun:
        fields |= {"cached_tokens": record.cached_tokens, "output_tokens": record.output_tokens}
    if record.num_choices > 1:
        fields["choices"] = record.num_choices
    if record.first_token_s is not None:
        fields["ttft_s"] = round(record.first_token_s, 4)
    fields["duration_s"] = round(time.monotonic() - record.arrival_s, 4)
    if record.finish_reasons:
        fields["finish"] = ",".join(record.finish_reasons)
    return fields
