"""Metrics of the API process: keys, files and jobs, connections, and the engine process."""

from server.metrics import buckets
from server.metrics.spec import MODEL, MetricSpec, counter, gauge, histogram

_KEYS: tuple[MetricSpec, ...] = (
    gauge("api_keys", "Accepted keys of the keys file."),
    gauge("api_keys_file_broken", "1 while the keys file cannot be used; the previous keys are still accepted."),
    counter(
        "api_keys_reloads_total",
        "Times that a changed keys file was read, by outcome: loaded, failed (the previous keys are still accepted).",
        labels=("outcome",),
    ),
    counter(
        "key_requests_total",
        "POST requests with keys of the keys file, by outcome as in requests_total; beyond 100 names, keys are "
        "counted as 'other'.",
        labels=("key", "outcome"),
    ),
    counter("key_prompt_tokens_total", "Prompt tokens of the requests with a key.", labels=("key",)),
    counter(
        "key_cached_tokens_total",
        "Prompt tokens of the requests with a key that were in the prefix cache.",
        labels=("key",),
    ),
    counter("key_output_tokens_total", "Generated tokens of the requests with a key.", labels=("key",)),
    counter(
        "key_refusals_total",
        "Requests refused because of a key's limit: requests, tokens, concurrency, budget, expired.",
        labels=("key", "limit"),
    ),
    counter("usage_lines_lost_total", "Lines of --usage-log that could not be written."),
    counter("usage_write_failures_total", "Times that usage could not be stored; it is kept, and stored later."),
)

_BATCHES: tuple[MetricSpec, ...] = (
    gauge(
        "batches",
        "Batches by OpenAI's status; finished ones until they are deleted (--batch-max-age).",
        labels=("status",),
    ),
    counter(
        "batch_lines_total",
        "Lines of batches by outcome, once that is stored: completed, failed (answered with an error), expired, "
        "cancelled.",
        labels=("outcome",),
    ),
    gauge("batch_lines_running", "Lines that have started and are not answered yet.", labels=()),
    gauge("batch_lines_waiting", "Lines of batches in progress that have not started.", labels=()),
    gauge("files", "Files that clients uploaded and batches wrote.", labels=()),
    gauge("files_bytes", "Bytes of the files that clients uploaded and batches wrote.", labels=()),
)

_FINETUNING: tuple[MetricSpec, ...] = (
    gauge("finetune_jobs", "Fine-tuning jobs by OpenAI's status.", labels=("status",)),
    counter("finetune_steps_total", "Completed training steps.", labels=()),
    counter("finetune_tokens_total", "Tokens of examples and replayed answers in completed training steps.", labels=()),
    counter(
        "finetune_stopped_seconds_total",
        "Time for which a job's process was stopped because requests ran or waited (--finetune-yield always).",
        labels=(),
    ),
    counter(
        "finetune_restarts_total",
        "Times that a job's process ended unexpectedly and was restarted from its saved state.",
        labels=(),
    ),
)

_PULLS: tuple[MetricSpec, ...] = (
    gauge("pulls_running", "Models that are being fetched into the cache (--pull-allow).", labels=()),
    counter(
        "pulls_total",
        "Ended fetches of models, by outcome: complete, failed, stopped (its clients left, or an operator stopped it).",
        labels=("outcome",),
    ),
)

_GPUS: tuple[MetricSpec, ...] = (
    gauge(
        "gpu_memory_used_bytes",
        "Memory in use of a GPU that an engine computes on, by all programs. Metrics of GPUs need headrace[gpu].",
        labels=("gpu",),
    ),
    gauge("gpu_memory_total_bytes", "Memory of the GPU.", labels=("gpu",)),
    gauge(
        "gpu_utilization_perc",
        "Share of the driver's last sample, of up to a second, in which any kernel ran on the GPU; 1 is all.",
        labels=("gpu",),
    ),
    gauge("gpu_power_watts", "Power that the GPU draws.", labels=("gpu",)),
    counter(
        "gpu_energy_joules_total",
        "Energy that the GPU has used since the server's start. Divided by generation_tokens_total, it is the energy "
        "of a token.",
        labels=("gpu",),
    ),
)

_HTTP_LABELS = ("method", "route", "status")

_SERVER: tuple[MetricSpec, ...] = (
    counter(
        "tool_calls_total",
        "Tool calls in answers, by their format and outcome: complete, incomplete (the answer ended within the call).",
        labels=(MODEL, "parser", "outcome"),
    ),
    gauge(
        "stream_runs", "Streams and background responses that can continue without their connection, until they end."
    ),
    gauge("stream_log_bytes", "Memory of the events that are kept for clients that reconnect."),
    counter("streams_resumed_total", "Times that a client reconnected to a stream."),
    counter(
        "idempotency_keys_total",
        "Requests with an Idempotency-Key that was sent before, by outcome: repeated (the first one's answer or stream "
        "is sent again), in_progress (refused: the first has no answer yet), reused (refused: it had another body).",
        labels=("outcome",),
    ),
    gauge("idempotency_bytes", "Memory of the answers that are kept for requests with an Idempotency-Key."),
    gauge("engine_ready", "1 while the engine accepts requests; 0 while it loads, and when it is dead."),
    counter(
        "engine_restarts_total",
        "Times that the engine process was restarted, by reason: crash, hang (--engine-hang-timeout).",
        labels=(MODEL, "reason"),
    ),
    gauge(
        "startup_seconds",
        "Duration of each phase of the server's start; the phases follow one another.",
        labels=(MODEL, "phase"),
    ),
    gauge(
        "cache_config_info",
        "Always 1 once the engine is ready; the KV cache's shape is in the labels.",
        labels=(MODEL, "block_size", "num_blocks", "kv_bytes", "cache_dtype", "enable_prefix_caching"),
    ),
    counter(
        "http_connections_closed_total",
        "Connections that the server closed by itself, by reason: limit (--max-connections), header_timeout, "
        "header_size, invalid (not HTTP/1.1), body_timeout, write_timeout (also clients that are gone), tls_handshake "
        "(failed).",
        labels=("reason",),
    ),
    counter(
        "http_requests_total",
        "Answered HTTP requests; 499 means that the client disconnected; an unknown path is 'unmatched'.",
        labels=_HTTP_LABELS,
    ),
    histogram(
        "http_request_duration_seconds",
        "From a request's head to the end of its answer, including streams.",
        buckets.HTTP_S,
        labels=_HTTP_LABELS,
    ),
    histogram(
        "http_request_size_bytes",
        "Bytes of request bodies that were received.",
        buckets.HTTP_BYTES,
        labels=_HTTP_LABELS,
    ),
    histogram(
        "http_response_size_bytes", "Bytes of response bodies that were sent.", buckets.HTTP_BYTES, labels=_HTTP_LABELS
    ),
    counter(
        "requests_total",
        "Requests by outcome (completed, timeout, refused, failed, aborted: the client disconnected) and error code "
        "('none' without an error). A stream that breaks off after its status counts as failed.",
        labels=("route", "outcome", "code"),
    ),
    counter(
        "trace_spans_total",
        "Spans of traces by outcome: exported, failed (the collector did not accept them), dropped (too many were "
        "waiting to be sent).",
        labels=("outcome",),
    ),
    histogram(
        "event_loop_lag_seconds",
        "Delay of the API process's event loop, measured by a timer twice a second: all streams wait that long.",
        buckets.LAG_S,
        labels=(),
    ),
    gauge("build_info", "Always 1; the version is in the label.", labels=("version",)),
)

SERVER_SECTIONS: dict[str, tuple[MetricSpec, ...]] = {
    "Keys": _KEYS,
    "Files and batches": _BATCHES,
    "Fine-tuning": _FINETUNING,
    "Pulls": _PULLS,
    "GPUs": _GPUS,
    "Server": _SERVER,
}
