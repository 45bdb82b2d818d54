"""Rows of the table about the API process: keys, files and jobs, connections, and the engine process."""

from server.metrics import buckets
from server.metrics.spec import MODEL, MetricSpec, MetricType, counter, gauge

_KEYS: tuple[MetricSpec, ...] = (
    gauge("api_keys", "Accepted keys of the keys file."),
    gauge("api_keys_file_broken", "1 while the keys file cannot be used; the previous keys are still accepted."),
    MetricSpec(
        "api_keys_reloads_total",
        MetricType.COUNTER,
        "Times that a changed keys file was read, by outcome: loaded, failed (the previous keys are still accepted).",
        labels=("outcome",),
    ),
    MetricSpec(
        "key_requests_total",
        MetricType.COUNTER,
        "POST requests with keys of the keys file, by outcome as in requests_total; beyond 100 names, keys are "
        "counted as 'other'.",
        labels=("key", "outcome"),
    ),
    MetricSpec("key_prompt_tokens_total", MetricType.COUNTER, "Prompt tokens of these requests.", labels=("key",)),
    MetricSpec(
        "key_cached_tokens_total",
        MetricType.COUNTER,
        "Prompt tokens of these requests that were in the prefix cache.",
        labels=("key",),
    ),
    MetricSpec("key_output_tokens_total", MetricType.COUNTER, "Generated tokens of these requests.", labels=("key",)),
    MetricSpec(
        "key_refusals_total",
        MetricType.COUNTER,
        "Requests refused because of a key's limit: requests, tokens, concurrency, budget, expired.",
        labels=("key", "limit"),
    ),
    counter("usage_lines_lost_total", "Lines of --usage-log that could not be written."),
    counter("usage_write_failures_total", "Times that usage could not be stored; it is kept, and stored later."),
)

_BATCHES: tuple[MetricSpec, ...] = (
    MetricSpec(
        "batches",
        MetricType.GAUGE,
        "Batches by OpenAI's status; finished ones until they are deleted (--batch-max-age).",
        labels=("status",),
    ),
    MetricSpec(
        "batch_lines_total",
        MetricType.COUNTER,
        "Lines of batches by outcome, once that is stored: completed, failed (answered with an error), expired, "
        "cancelled.",
        labels=("outcome",),
    ),
    MetricSpec("batch_lines_running", MetricType.GAUGE, "Lines that have started and are not answered yet.", labels=()),
    MetricSpec(
        "batch_lines_waiting", MetricType.GAUGE, "Lines of batches in progress that have not started.", labels=()
    ),
    MetricSpec("files", MetricType.GAUGE, "Files that clients uploaded and batches wrote.", labels=()),
    MetricSpec("files_bytes", MetricType.GAUGE, "Bytes of these files.", labels=()),
)

_FINETUNING: tuple[MetricSpec, ...] = (
    MetricSpec("finetune_jobs", MetricType.GAUGE, "Fine-tuning jobs by OpenAI's status.", labels=("status",)),
    MetricSpec("finetune_steps_total", MetricType.COUNTER, "Completed training steps.", labels=()),
    MetricSpec(
        "finetune_tokens_total",
        MetricType.COUNTER,
        "Tokens of examples and replayed answers in these steps.",
        labels=(),
    ),
    MetricSpec(
        "finetune_stopped_seconds_total",
        MetricType.COUNTER,
        "Time for which a job's process was stopped because requests ran or waited (--finetune-yield always).",
        labels=(),
    ),
    MetricSpec(
        "finetune_restarts_total",
        MetricType.COUNTER,
        "Times that a job's process ended unexpectedly and was restarted from its saved state.",
        labels=(),
    ),
)

_HTTP_LABELS = ("method", "route", "status")

_SERVER: tuple[MetricSpec, ...] = (
    MetricSpec(
        "tool_calls_total",
        MetricType.COUNTER,
        "Tool calls in answers, by their format and outcome: complete, incomplete (the answer ended within the call).",
        labels=(MODEL, "parser", "outcome"),
    ),
    gauge(
        "stream_runs", "Streams and background responses that can continue without their connection, until they end."
    ),
    gauge("stream_log_bytes", "Memory of the events that are kept for clients that reconnect."),
    counter("streams_resumed_total", "Times that a client reconnected to a stream."),
    gauge("engine_ready", "1 while the engine accepts requests; 0 while it loads, and when it is dead."),
    counter(
        "engine_restarts_total",
        "Times that the engine process was restarted, by reason: crash, hang (--engine-hang-timeout).",
        by="reason",
    ),
    gauge(
        "startup_seconds", "Duration of each phase of the server's start; the phases follow one another.", by="phase"
    ),
    MetricSpec(
        "cache_config_info",
        MetricType.GAUGE,
        "Always 1 once the engine is ready; the KV cache's shape is in the labels.",
        labels=(MODEL, "block_size", "num_blocks", "kv_bytes", "cache_dtype", "enable_prefix_caching"),
    ),
    MetricSpec(
        "http_connections_closed_total",
        MetricType.COUNTER,
        "Connections that the server closed by itself, by reason: limit (--max-connections), header_timeout, "
        "header_size, invalid (not HTTP/1.1), body_timeout, write_timeout (also clients that are gone), tls_handshake "
        "(failed).",
        labels=("reason",),
    ),
    MetricSpec(
        "http_requests_total",
        MetricType.COUNTER,
        "Answered HTTP requests; 499 means that the client disconnected; an unknown path is 'unmatched'.",
        labels=_HTTP_LABELS,
    ),
    MetricSpec(
        "http_request_duration_seconds",
        MetricType.HISTOGRAM,
        "From a request's head to the end of its answer, including streams.",
        labels=_HTTP_LABELS,
        buckets=buckets.HTTP_S,
    ),
    MetricSpec(
        "http_request_size_bytes",
        MetricType.HISTOGRAM,
        "Bytes of request bodies that were received.",
        labels=_HTTP_LABELS,
        buckets=buckets.HTTP_BYTES,
    ),
    MetricSpec(
        "http_response_size_bytes",
        MetricType.HISTOGRAM,
        "Bytes of response bodies that were sent.",
        labels=_HTTP_LABELS,
        buckets=buckets.HTTP_BYTES,
    ),
    MetricSpec(
        "requests_total",
        MetricType.COUNTER,
        "Requests by outcome (completed, timeout, refused, failed, aborted: the client disconnected) and error code "
        "('none' without an error). A stream that breaks off after its status counts as failed.",
        labels=("route", "outcome", "code"),
    ),
    MetricSpec(
        "trace_spans_total",
        MetricType.COUNTER,
        "Spans of traces by outcome: exported, failed (the collector did not accept them), dropped (too many were "
        "waiting to be sent).",
        labels=("outcome",),
    ),
    MetricSpec(
        "event_loop_lag_seconds",
        MetricType.HISTOGRAM,
        "Delay of the API process's event loop, measured by a timer twice a second: all streams wait that long.",
        labels=(),
        buckets=buckets.LAG_S,
    ),
    MetricSpec("build_info", MetricType.GAUGE, "Always 1; the version is in the label.", labels=("version",)),
)

SERVER_SECTIONS: dict[str, tuple[MetricSpec, ...]] = {
    "Keys": _KEYS,
    "Files and batches": _BATCHES,
    "Fine-tuning": _FINETUNING,
    "Server": _SERVER,
}
