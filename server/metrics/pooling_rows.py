"""What a pooling engine computes: texts, their tokens, and how many come together."""

from server.metrics import buckets
from server.metrics.spec import MetricSpec, counter, histogram

POOLING_ROWS: tuple[MetricSpec, ...] = (
    counter(
        "pooled_tokens_total",
        "Tokens of texts that a pooling engine computed; divided by the seconds of the phase forward, it is its speed.",
        lambda s: s.pooled_tokens,
    ),
    counter("pooled_texts_total", "Texts that a pooling engine computed.", lambda s: s.pooled_requests),
    histogram(
        "pooling_step_tokens",
        "Tokens computed in one step of a pooling engine.",
        buckets.ITERATION_TOKENS,
        lambda s: s.pooled_tokens or None,
    ),
    histogram(
        "pooling_step_texts",
        "Texts computed in one step of a pooling engine.",
        buckets.REQUEST_INPUTS,
        lambda s: s.pooled_requests or None,
    ),
)
