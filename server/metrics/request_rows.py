"""Metrics of requests, which the API process counts and times."""

from server.metrics import buckets
from server.metrics.spec import MODEL, MetricSpec, counter, histogram

_TOKENS: tuple[MetricSpec, ...] = (
    counter(
        "prompt_tokens_total",
        "Prompt tokens, each prompt once, as in usage; also of requests that ended without a usage.",
        is_vllm=True,
    ),
    counter(
        "prompt_tokens_cached_total",
        "Prompt tokens that were in the prefix cache when the prompt's first choice ran.",
        is_vllm=True,
    ),
    counter(
        "prompt_tokens_by_source_total",
        "Prompt tokens of requests that ran, by where their keys and values came from: local_compute, local_cache_hit.",
        labels=(MODEL, "source"),
        is_vllm=True,
    ),
    counter("generation_tokens_total", "Generated tokens, as in the responses' usage.", is_vllm=True),
    counter("discarded_tokens_total", "Tokens that were generated beyond a request's end and discarded."),
    counter(
        "wasted_tokens_total",
        "Tokens computed in vain: generated for choices that ended in abort or error, or computed again after a "
        "preemption.",
        labels=(MODEL, "cause"),
        step_by={"preemption": lambda s: s.recomputed_tokens},
    ),
)

_CHOICES: tuple[MetricSpec, ...] = (
    counter(
        "request_success_total",
        "Finished requests by reason (stop, length, timeout, queue_timeout, abort, error); each choice counts once.",
        labels=(MODEL, "finished_reason"),
        is_vllm=True,
    ),
    counter(
        "requests_shed_total",
        "Requests that were shed before anything was computed for them, by reason: waiting_requests "
        "(--max-num-waiting), waiting_tokens (--max-num-waiting-tokens), queue_timeout (--queue-timeout), ttft_slo "
        "(--ttft-slo).",
        labels=(MODEL, "reason"),
    ),
    counter(
        "service_tier_requests_total",
        "Accepted requests by service_tier (default, flex, priority); each choice counts once.",
        labels=(MODEL, "service_tier"),
    ),
    histogram(
        "time_to_first_token_seconds", "From a request's arrival to its first token.", buckets.TTFT_S, is_vllm=True
    ),
    histogram(
        "predicted_time_to_first_token_seconds",
        "Predicted time to the first token, from when the engine received the request; used by --ttft-slo, and "
        "measured without it too.",
        buckets.TTFT_S,
    ),
    histogram(
        "time_to_first_token_prediction_ratio",
        "Real time to the first token, divided by the predicted time, if that was 0.1 s or more; above 1, the token "
        "came later.",
        buckets.RATIO,
    ),
    histogram(
        "inter_token_latency_seconds", "From one token of a request to the next.", buckets.TOKEN_LATENCY_S, is_vllm=True
    ),
    histogram(
        "request_time_per_output_token_seconds",
        "Mean time from one token to the next, for each choice of two tokens or more.",
        buckets.TOKEN_LATENCY_S,
        is_vllm=True,
    ),
    histogram(
        "e2e_request_latency_seconds",
        "From a request's arrival to its end, whatever the reason.",
        buckets.LATENCY_S,
        is_vllm=True,
    ),
    histogram(
        "request_queue_time_seconds",
        "From a request's arrival to its first step, or to its end if it had no output.",
        buckets.LATENCY_S,
        is_vllm=True,
    ),
    histogram(
        "queue_time_seconds",
        "Waiting time of requests by how the wait ended: scheduled, or the reason why the request ended before any "
        "output (abort, error, ...).",
        buckets.LATENCY_S,
        labels=(MODEL, "outcome"),
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
        "Length of a prompt; most requests that a full queue refuses are refused before their length is known.",
        buckets.REQUEST_TOKENS,
        is_vllm=True,
    ),
    histogram(
        "request_prefill_kv_computed_tokens",
        "Tokens of a prompt that were not in the prefix cache.",
        buckets.REQUEST_TOKENS,
        is_vllm=True,
    ),
    histogram(
        "request_max_num_generation_tokens",
        "Tokens of a prompt's longest choice.",
        buckets.REQUEST_TOKENS,
        is_vllm=True,
    ),
    histogram("request_params_n", "Requested choices of a prompt.", buckets.NUM_CHOICES, is_vllm=True),
    histogram(
        "request_params_max_tokens",
        "Maximum number of tokens of a prompt's choices.",
        buckets.REQUEST_TOKENS,
        is_vllm=True,
    ),
)

_POOLING: tuple[MetricSpec, ...] = (
    counter(
        "pooling_inputs_total",
        "Texts of finished requests for embeddings and scores, by task (embed, token_embed, classify, score) and "
        "outcome: stop (computed), timeout, queue_timeout, abort, error.",
        labels=(MODEL, "task", "outcome"),
    ),
    histogram("pooling_request_inputs", "Texts of a request for embeddings or scores.", buckets.REQUEST_INPUTS),
    histogram(
        "pooling_request_tokens", "Tokens of all texts of a request for embeddings or scores.", buckets.REQUEST_TOKENS
    ),
)

_DECISIONS: tuple[MetricSpec, ...] = (
    counter(
        "decision_answers_total",
        "Answered questions of decisions, by kind (predicate, choice, score) and outcome: answer, or refusal "
        "(--decision-min-mass).",
        labels=(MODEL, "kind", "outcome"),
    ),
    histogram("decision_questions", "Questions of a decision.", buckets.REQUEST_INPUTS),
    histogram(
        "decision_label_mass",
        "Probability of a question's labels together; if it is low, the model would answer something else.",
        buckets.PROBABILITY,
    ),
    counter(
        "moderation_results_total",
        "Texts of moderations, by outcome: flagged (--moderation-threshold), or passed.",
        labels=(MODEL, "outcome"),
    ),
)

REQUEST_SECTIONS: dict[str, tuple[MetricSpec, ...]] = {
    "Tokens": _TOKENS,
    "Requests": _CHOICES,
    "Prompts": _PROMPTS,
    "Embeddings and scores": _POOLING,
    "Decisions": _DECISIONS,
}
