"""load_headers: the load of a model's engine as response headers, for load balancers."""

import json
from collections.abc import Mapping

from engine.client.interface import EngineStatus

LOAD_HEADER = "x-headrace-load"
STARTED_HEADER = "x-request-started"  # of a 429 or 503: whether the engine computed any of the request
_ORCA_REQUEST = "endpoint-load-metrics-format"
_ORCA_HEADER = "endpoint-load-metrics"


def load_headers(status: EngineStatus, request_headers: Mapping[str, str]) -> dict[str, str]:
    """Return `x-headrace-load`, a dictionary of RFC 8941, and for a request with `endpoint-load-metrics-format: TEXT`
    or `JSON` the same load as ORCA's header, with the names of vLLM's metrics. Other formats are ignored, as vLLM
    does."""
    values = {
        "num_requests_running": status.num_running,
        "num_requests_waiting": status.num_waiting,
        "queued_prompt_tokens": status.num_waiting_tokens - status.num_cached_tokens + status.num_pending_tokens,
        "cached_prompt_tokens": status.num_cached_tokens,
        "kv_cache_usage_perc": round(status.kv_usage, 3),
    }
    headers = {LOAD_HEADER: ", ".join(f"{name}={value}" for name, value in values.items())}
    orca_format = request_headers.get(_ORCA_REQUEST, "").upper()
    if orca_format == "TEXT":
        headers[_ORCA_HEADER] = "TEXT " + ", ".join(f"named_metrics.{name}={value}" for name, value in values.items())
    elif orca_format == "JSON":
        headers[_ORCA_HEADER] = "JSON " + json.dumps({"named_metrics": values})
    return headers
