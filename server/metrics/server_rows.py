"""Rows of the table that the API process knows by its own clock and counts."""

from server.metrics import buckets
from server.metrics.finetune_rows import FINETUNING
from server.metrics.spec import MODEL, MetricSpec, MetricType, counter, gauge, histogram

_TOKENS: tuple[MetricSpec, ...] = (
    counter(
        "prompt_tokens_total",
        "Prompt tokens, each prompt once, as a usage counts them; also of requests that ended without one.",
        is_vllm=True,
    ),
    counter(
        "prompt_tokens_cached_total",
        "Of them, those that the prefix cache had when the prompt's first choice ran.",
        is_vllm=True,
    ),
    counter(
        "prompt_tokens_by_source_total",
        "Prompt tokens that ran, by where their keys and values came from: local_compute, local_cache_hit.",
        by="source",
        is_vllm=True,
    ),
    counter("generation_tokens_total", "Generated tokens, as the responses' usage counts them.", is_vllm=True),
    counter("discarded_tokens_total", "Tokens generated beyond a request's end and thrown away."),
    counter(
        "wasted_tokens_total",
        "Tokens computed for nothing: generated for choices that ended in abort or error, or computed again after a "
        "preemption.",
        by="cause",
        step_by={"preemption": lambda s: s.recomputed_tokens},
    ),
)

_CHOICES: tuple[MetricSpec, ...] = (
    counter(
        "request_success_total",
        "Ended requests by reason (stop, length, timeout, queue_timeout, abort, error); each choice counts once.",
        by="finished_reason",
        is_vllm=True,
    ),
    counter(
        "requests_shed_total",
        "Requests that were given up on before anything was computed for them, by reason: waiting_requests "
        "(--max-num-waiting), waiting_tokens (--max-num-waiting-tokens), queue_timeout "
        "(--queue-timeout), ttft_slo (--ttft-slo).",
        by="reason",
    ),
    counter(
        "service_tier_requests_total",
        "Accepted requests by service_tier (default, flex, priority); each choice counts once.",
        by="service_tier",
    ),
    histogram(
        "time_to_first_token_seconds", "From a request's arrival to its first token.", buckets.TTFT_S, is_vllm=True
    ),
    histogram(
        "predicted_time_to_first_token_seconds",
        "What was expected of it, from when the engine got the request; for --ttft-slo, and counted without it too.",
        buckets.TTFT_S,
    ),
    histogram(
        "time_to_first_token_prediction_ratio",
        "Real over expected time to the first token, where 0.1 s or more were expected; above 1 it came later.",
        buckets.RATIO,
    ),
    histogram(
        "inter_token_latency_seconds",
        "From one token of a request to the next.",
        buckets.TOKEN_LATENCY_S,
        is_vllm=True,
    ),
    histogram(
        "request_time_per_output_token_seconds",
        "The mean of that over a choice of two tokens or more.",
        buckets.TOKEN_LATENCY_S,
        is_vllm=True,
    ),
    histogram(
        "e2e_request_latency_seconds",
        "From a request's arrival to its end, whatever that was.",
        buckets.LATENCY_S,
        is_vllm=True,
    ),
    histogram(
        "request_queue_time_seconds",
        "From a request's arrival to its first step, or to its end if it had no output before.",
        buckets.LATENCY_S,
        is_vllm=True,
    ),
    histogram(
        "queue_time_seconds",
        "The same by how the wait ended: scheduled, or what ended the request before any output (abort, error, ...).",
        buckets.LATENCY_S,
        by="outcome",
    ),
    histogram(
        "request_prefill_time_seconds",
        "From a choice's first step to its first token, or to its end if that came first.",
        buckets.LATENCY_S,
        is_vllm=True,
    ),
    histogram(
        "request_decode_time_seconds", "From a choice's first token to its last.", buckets.LATENCY_S, is_vllm=True
    ),
    histogram(
        "request_inference_time_seconds",
        "From a choice's first step to its last token, or to its end if there was none.",
        buckets.LATENCY_S,
        is_vllm=True,
    ),
    histogram("request_generation_tokens", "Generated tokens of a choice.", buckets.REQUEST_TOKENS, is_vllm=True),
)

_PROMPTS: tuple[MetricSpec, ...] = (
    histogram(
        "request_prompt_tokens",
        "Length of a prompt; requests that a full queue refuses are mostly not read so far.",
        buckets.REQUEST_TOKENS,
        is_vllm=True,
    ),
    histogram(
        "request_prefill_kv_computed_tokens",
        "Tokens of a prompt that the prefix cache did not have.",
        buckets.REQUEST_TOKENS,
        is_vllm=True,
    ),
    histogram(
        "request_max_num_generation_tokens",
        "Tokens of a prompt's longest choice.",
        buckets.REQUEST_TOKENS,
        is_vllm=True,
    ),
    histogram("request_params_n", "Choices asked for of a prompt.", buckets.NUM_CHOICES, is_vllm=True),
    histogram(
        "request_params_max_tokens",
        "Most tokens that a choice of a prompt may have.",
        buckets.REQUEST_TOKENS,
        is_vllm=True,
    ),
)

_POOLING: tuple[MetricSpec, ...] = (
    MetricSpec(
        "pooling_inputs_total",
        MetricType.COUNTER,
        "Texts of ended requests for embeddings and scores, by task (embed, token_embed, classify, score) and by how "
        "they ended: stop (computed), timeout, queue_timeout, abort, error.",
        labels=(MODEL, "task", "outcome"),
    ),
    histogram("pooling_request_inputs", "Texts of such a request.", buckets.REQUEST_INPUTS),
    histogram("pooling_request_tokens", "Tokens of all its texts together.", buckets.REQUEST_TOKENS),
)

_KEYS: tuple[MetricSpec, ...] = (
    gauge("api_keys", "Keys of the keys file that are accepted."),
    gauge("api_keys_file_broken", "1 while the keys file cannot be used, and the keys of before are accepted."),
    MetricSpec(
        "api_keys_reloads_total",
        MetricType.COUNTER,
        "Times that a changed keys file was read, by outcome: loaded, failed (its former keys go on being accepted).",
        labels=("outcome",),
    ),
    MetricSpec(
        "key_requests_total",
        MetricType.COUNTER,
        "Requests (POST) of keys of the keys file, by outcome as in requests_total; names beyond 100 are 'other'.",
        labels=("key", "outcome"),
    ),
    MetricSpec("key_prompt_tokens_total", MetricType.COUNTER, "Prompt tokens of these requests.", labels=("key",)),
    MetricSpec(
        "key_cached_tokens_total", MetricType.COUNTER, "Of them, those that the prefix cache had.", labels=("key",)
    ),
    MetricSpec("key_output_tokens_total", MetricType.COUNTER, "Generated tokens of these requests.", labels=("key",)),
    MetricSpec(
        "key_refusals_total",
        MetricType.COUNTER,
        "Requests that a key's limit refused: requests, tokens, concurrency, budget, expired.",
        labels=("key", "limit"),
    ),
    counter("usage_lines_lost_total", "Lines of --usage-log that could not be written."),
    counter("usage_write_failures_total", "Times that usage could not be stored; it is kept, and tried again."),
)

_BATCHES: tuple[MetricSpec, ...] = (
    MetricSpec(
        "batches",
        MetricType.GAUGE,
        "Batches by status, as OpenAI calls them; ended ones until they are forgotten (--batch-max-age).",
        labels=("status",),
    ),
    MetricSpec(
        "batch_lines_total",
        MetricType.COUNTER,
        "Lines of batches by what became of them, once that is stored: completed, failed (answered with an error), "
        "expired, cancelled.",
        labels=("outcome",),
    ),
    MetricSpec("batch_lines_running", MetricType.GAUGE, "Lines that are begun and not answered.", labels=()),
    MetricSpec("batch_lines_waiting", MetricType.GAUGE, "Lines of batches in progress that are not begun.", labels=()),
    MetricSpec("files", MetricType.GAUGE, "Files that clients uploaded and batches wrote.", labels=()),
    MetricSpec("files_bytes", MetricType.GAUGE, "Their bytes.", labels=()),
)

_HTTP_LABELS = ("method", "route", "status")

_SERVER: tuple[MetricSpec, ...] = (
    MetricSpec(
        "tool_calls_total",
        MetricType.COUNTER,
        "Tool calls in answers, by the format that they were read with and what became of them: complete, incomplete "
        "(the answer ended within the call).",
        labels=(MODEL, "parser", "outcome"),
    ),
    gauge("stream_runs", "Streams and background responses that go on without their connection, until they end."),
    gauge("stream_log_bytes", "Memory of the events that are held for clients that come back."),
    counter("streams_resumed_total", "Times that a client came back to a stream."),
    gauge("engine_ready", "1 while the engine takes requests; 0 while it loads, and when it is dead."),
    counter(
        "engine_restarts_total",
        "Times that the engine process was started again, by reason: crash, hang (--engine-hang-timeout).",
        by="reason",
    ),
    gauge("startup_seconds", "Time that each phase of the server's start took; they follow one another.", by="phase"),
    MetricSpec(
        "cache_config_info",
        MetricType.GAUGE,
        "Always 1 once the engine is ready; the KV cache's shape is in the labels.",
        labels=(MODEL, "block_size", "num_blocks", "kv_bytes", "cache_dtype", "enable_prefix_caching"),
    ),
    MetricSpec(
        "http_connections_closed_total",
        MetricType.COUNTER,
        "Connections that the server ended against their client's will, by reason: limit (--max-connections), "
        "header_timeout, header_size, invalid (no HTTP/1.1), body_timeout, write_timeout (also clients that are gone), "
        "tls_handshake (that failed).",
        labels=("reason",),
    ),
    MetricSpec(
        "http_requests_total",
        MetricType.COUNTER,
        "Answered HTTP requests; 499 is a client that went away, an unknown path is 'unmatched'.",
        labels=_HTTP_LABELS,
    ),
    MetricSpec(
        "http_request_duration_seconds",
        MetricType.HISTOGRAM,
        "From a request's head to the end of its answer, streams too.",
        labels=_HTTP_LABELS,
        buckets=buckets.HTTP_S,
    ),
    MetricSpec(
        "http_request_size_bytes",
        MetricType.HISTOGRAM,
        "Bytes of the bodies that came.",
        labels=_HTTP_LABELS,
        buckets=buckets.HTTP_BYTES,
    ),
    MetricSpec(
        "http_response_size_bytes",
        MetricType.HISTOGRAM,
        "Bytes of the answers' bodies that were sent.",
        labels=_HTTP_LABELS,
        buckets=buckets.HTTP_BYTES,
    ),
    MetricSpec(
        "requests_total",
        MetricType.COUNTER,
        "Requests by what became of them (completed, timeout, refused, failed, aborted: its client went away) and by "
        "error code, 'none' without an error. A stream that breaks off after its status counts here as failed.",
        labels=("route", "outcome", "code"),
    ),
    MetricSpec(
        "trace_spans_total",
        MetricType.COUNTER,
        "Spans of traces by what became of them: exported, failed (the collector did not take them), dropped (too many "
        "waited to be sent).",
        labels=("outcome",),
    ),
    MetricSpec(
        "event_loop_lag_seconds",
        MetricType.HISTOGRAM,
        "How late the API process's event loop came to a timer, twice a second: all streams wait so long.",
        labels=(),
        buckets=buckets.LAG_S,
    ),
    MetricSpec("build_info", MetricType.GAUGE, "Always 1; the version is in the label.", labels=("version",)),
)

SERVER_SECTIONS: dict[str, tuple[MetricSpec, ...]] = {
    "Tokens": _TOKENS,
    "Requests": _CHOICES,
    "Prompts": _PROMPTS,
    "Embeddings and scores": _POOLING,
    "Keys": _KEYS,
    "Files and batches": _BATCHES,
    "Fine-tuning": FINETUNING,
    "Server": _SERVER,
}
