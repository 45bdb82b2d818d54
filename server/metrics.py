"""ONE table of metrics: name, type, help, labels, and how each is read from the engine's StepStats.

Rows without a `step` reader come from the API process's own clock and counts (see metering.py and middleware.py).
Names, meanings and buckets follow vLLM's `vllm:*`, so that dashboards move over by a rename.
"""

import enum
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from engine.protocol import FinishReason, StepStats

_TTFT_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0),
    *(2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_ITL_BUCKETS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0),
    *(2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_LATENCY_BUCKETS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
_ITERATION_BUCKETS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_STEP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)

_COMPILE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)

_MAX_EXPERT_LABELS = 256

PREFIX = "headrace_"


class MetricType(enum.StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One row. `step` reads a gauge's value, a counter's increment or an observation; None there means: nothing."""

    name: str
    type: MetricType
    help: str
    step: Callable[[StepStats], float | None] | None = None
    labels: tuple[str, ...] = ("model_name",)
    buckets: tuple[float, ...] = ()


def _counter(name: str, help: str, step: Callable[[StepStats], float | None] | None = None) -> MetricSpec:
    return MetricSpec(name, MetricType.COUNTER, help, step)


def _gauge(name: str, help: str, step: Callable[[StepStats], float | None] | None = None) -> MetricSpec:
    return MetricSpec(name, MetricType.GAUGE, help, step)


def _histogram(
    name: str, help: str, buckets: tuple[float, ...], step: Callable[[StepStats], float | None] | None = None
) -> MetricSpec:
    return MetricSpec(name, MetricType.HISTOGRAM, help, step, buckets=buckets)


METRICS: tuple[MetricSpec, ...] = (
    _gauge("num_requests_running", "Requests in the running batch.", lambda s: s.running),
    _gauge("num_requests_waiting", "Requests that wait for their turn.", lambda s: s.waiting),
    _gauge(
        "kv_cache_usage_perc",
        "Share of KV cache blocks that live requests hold; 1 is all.",
        lambda s: s.blocks_used / s.blocks_total if s.blocks_total else 0.0,
    ),
    _gauge("kv_cache_cached_blocks", "Free blocks that still hold a reusable prefix.", lambda s: s.blocks_cached),
    _gauge(
        "recurrent_states_usage_perc",
        "Share of the states of recurrent layers that live requests hold; 0 for models without such layers.",
        lambda s: s.states_used / s.states_total if s.states_total else 0.0,
    ),
    _gauge(
        "recurrent_states_cached", "Free states that are checkpoints of a reusable prefix.", lambda s: s.states_cached
    ),
    _counter(
        "num_preemptions_total",
        "Requests put back in the queue for want of blocks or recurrent states.",
        lambda s: s.preemptions,
    ),
    _counter("prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.", lambda s: s.prefix_queries),
    _counter("prefix_cache_hits_total", "Prompt tokens found in the prefix cache.", lambda s: s.prefix_hits),
    _counter("prompt_tokens_total", "Prompt tokens, as the responses' usage counts them."),
    _counter("generation_tokens_total", "Generated tokens, as the responses' usage counts them."),
    _counter("discarded_tokens_total", "Tokens generated beyond a request's end and thrown away."),
    MetricSpec(
        "request_success_total",
        MetricType.COUNTER,
        "Ended requests by reason (stop, length, timeout, abort, error); each choice counts once.",
        labels=("model_name", "finished_reason"),
    ),
    MetricSpec(
        "service_tier_requests_total",
        MetricType.COUNTER,
        "Accepted requests by service_tier (default, flex, priority); each choice counts once.",
        labels=("model_name", "service_tier"),
    ),
    _histogram("time_to_first_token_seconds", "From a request's arrival to its first token.", _TTFT_BUCKETS),
    _histogram("inter_token_latency_seconds", "From one token of a request to the next.", _ITL_BUCKETS),
    _histogram("e2e_request_latency_seconds", "From a request's arrival to its end.", _LATENCY_BUCKETS),
    _histogram("request_queue_time_seconds", "From a request's arrival to its first step.", _LATENCY_BUCKETS),
    _histogram(
        "iteration_tokens",
        "Tokens computed in one step.",
        _ITERATION_BUCKETS,
        lambda s: (s.prefill_tokens + s.decode_tokens) or None,
    ),
    _histogram("step_duration_seconds", "Length of one step.", _STEP_BUCKETS, lambda s: s.step_s or None),
    _counter("spec_decode_num_drafts_total", "Drafts verified.", lambda s: s.num_drafts),
    _counter("spec_decode_num_draft_tokens_total", "Draft tokens verified.", lambda s: s.draft_tokens),
    _counter(
        "spec_decode_num_accepted_tokens_total",
        "Draft tokens that were accepted; each saved a step.",
        lambda s: s.accepted_tokens,
    ),
    MetricSpec(
        "spec_decode_num_accepted_tokens_per_pos_total",
        MetricType.COUNTER,
        "The same by position in the draft, from 0.",
        labels=("model_name", "position"),
    ),
    _gauge(
        "spec_decode_draft_length",
        "Draft tokens chosen for a decoding sequence, on average in the last step.",
        lambda s: s.draft_length,
    ),
    _gauge(
        "spec_decode_estimated_speedup",
        "Of the last step by its drafts, as foreseen when they were chosen.",
        lambda s: s.estimated_speedup,
    ),
    _gauge(
        "spec_decode_realised_speedup",
        "Of the last steps, against decoding one token a step.",
        lambda s: s.realized_speedup,
    ),
    MetricSpec(
        "spec_decode_audits_total",
        MetricType.COUNTER,
        "Replays without drafts (--spec-audit-rate) by what they showed: equal, near_tie, disagreement.",
        labels=("model_name", "verdict"),
    ),
    _gauge(
        "spec_decode_disabled",
        "1 after a fault or an audit's disagreement has switched speculation off.",
        lambda s: s.is_speculation_off,
    ),
    MetricSpec(
        "grammar_compilations_total",
        MetricType.COUNTER,
        "Grammars and JSON schemas by how compiling them ended: compiled, invalid, timeout, cancelled (requests gone).",
        labels=("model_name", "outcome"),
    ),
    _histogram("grammar_compile_time_seconds", "Length of one compilation, however it ended.", _COMPILE_BUCKETS),
    _counter(
        "grammar_cache_queries_total",
        "Requests with a grammar, looked up among the compiled ones.",
        lambda s: s.grammar_cache_queries,
    ),
    _counter("grammar_cache_hits_total", "Of them, those found compiled.", lambda s: s.grammar_cache_hits),
    _gauge("grammar_cache_bytes", "Estimated size of the compiled grammars.", lambda s: s.grammar_cache_bytes),
    _counter(
        "grammar_masks_total",
        "Tokens that needed a grammar's mask, drafted ones too.",
        lambda s: s.num_masks,
    ),
    _counter(
        "grammar_mask_seconds_total",
        "Time that steps spent on these masks.",
        lambda s: s.mask_s,
    ),
    _counter(
        "grammar_forced_tokens_total",
        "Tokens that a grammar left no choice about, and that no step was spent on.",
        lambda s: s.forced_tokens,
    ),
    MetricSpec(
        "tool_calls_total",
        MetricType.COUNTER,
        "Tool calls in answers, by the format that they were read with and what became of them: complete, incomplete "
        "(the answer ended within the call).",
        labels=("model_name", "parser", "outcome"),
    ),
    MetricSpec(
        "expert_rows_total",
        MetricType.COUNTER,
        "Rows that each expert computed, over all layers with experts; beyond 256 experts, neighbors together.",
        labels=("model_name", "expert"),
    ),
    _gauge(
        "expert_imbalance",
        "Recent rows of a layer's busiest expert over its mean one's, averaged over layers; 1 is even.",
        lambda s: s.expert_imbalance,
    ),
    _gauge("stream_runs", "Streams and background responses that go on without their connection, until they end."),
    _gauge("stream_log_bytes", "Memory of the events that are held for clients that come back."),
    _counter("streams_resumed_total", "Times that a client came back to a stream."),
    _counter("engine_restarts_total", "Times that the engine process was started again."),
    MetricSpec(
        "startup_seconds",
        MetricType.GAUGE,
        "Time that each phase of the server's start took; they follow one another.",
        labels=("model_name", "phase"),
    ),
    MetricSpec(
        "http_requests_total",
        MetricType.COUNTER,
        "Answered HTTP requests; 499 is a client that went away, an unknown path is 'unmatched'.",
        labels=("method", "route", "status"),
    ),
    MetricSpec("build_info", MetricType.GAUGE, "Always 1; the version is in the label.", labels=("version",)),
)


class Metrics:
    """The table's values in a registry of their own. Counters live here, so they survive an engine's restart."""

    def __init__(self, model_name: str) -> None:
        disable_created_metrics()  # else each counter and histogram doubles its series with a creation time
        self._model_name = model_name
        self._registry = CollectorRegistry()
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for spec in METRICS:
            self._register(spec, model_name)
        ended = self._counters["request_success_total"]
        self._ended = {reason: ended.labels(model_name, reason.value) for reason in FinishReason}
        self._gauges["build_info"].labels(importlib.metadata.version("headrace")).set(1)
        ProcessCollector(registry=self._registry)

    def _register(self, spec: MetricSpec, model_name: str) -> None:
        """Create a metric, already bound to the model's name where that is its only label."""
        name, labels, registry = PREFIX + spec.name, spec.labels, self._registry
        bound = (model_name,) if labels == ("model_name",) else ()
        match spec.type:
            case MetricType.COUNTER:
                counter = Counter(name, spec.help, labels, registry=registry)
                self._counters[spec.name] = counter.labels(*bound) if bound else counter
            case MetricType.GAUGE:
                gauge = Gauge(name, spec.help, labels, registry=registry)
                self._gauges[spec.name] = gauge.labels(*bound) if bound else gauge
            case MetricType.HISTOGRAM:
                histogram = Histogram(name, spec.help, labels, registry=registry, buckets=spec.buckets)
                self._histograms[spec.name] = histogram.labels(*bound) if bound else histogram

    def render(self) -> bytes:
        """All values in Prometheus's text format."""
        return generate_latest(self._registry)

    # --- from the engine's client -------------------------------------------------------------------------------------

    def on_step(self, stats: StepStats) -> None:
        """Take over one step's account."""
        for spec in METRICS:
            value = spec.step(stats) if spec.step is not None else None
            if value is None:
                continue
            match spec.type:
                case MetricType.COUNTER:
                    self._counters[spec.name].inc(value)
                case MetricType.GAUGE:
                    self._gauges[spec.name].set(value)
                case MetricType.HISTOGRAM:
                    self._histograms[spec.name].observe(value)

        if stats.audit is not None:
            self._counters["spec_decode_audits_total"].labels(self._model_name, stats.audit.value).inc()
        for position, count in enumerate(stats.accepted_by_position):
            self._accepted_at(position).inc(count)
        self._count_experts(stats.expert_rows)
        for outcome, seconds in stats.grammar_compile_s.items():
            self._counters["grammar_compilations_total"].labels(self._model_name, outcome).inc(len(seconds))
            for compile_s in seconds:
                self.observe("grammar_compile_time_seconds", compile_s)

    def _accepted_at(self, position: int) -> Counter:
        return self._counters["spec_decode_num_accepted_tokens_per_pos_total"].labels(self._model_name, str(position))

    def _count_experts(self, rows: list[int]) -> None:
        """Series are made when they first count; a label is an expert, or a range of them where there are very many."""
        width = max(1, -(-len(rows) // _MAX_EXPERT_LABELS))
        counter = self._counters["expert_rows_total"]
        for first in range(0, len(rows), width):
            if count := sum(rows[first : first + width]):
                last = min(first + width, len(rows)) - 1
                label = str(first) if width == 1 else f"{first}-{last}"
                counter.labels(self._model_name, label).inc(count)

    def on_discarded(self, num_tokens: int) -> None:
        self.add("discarded_tokens_total", num_tokens)

    def on_restart(self) -> None:
        self.add("engine_restarts_total", 1)

    def on_startup_phase(self, phase: str, seconds: float) -> None:
        self._gauges["startup_seconds"].labels(self._model_name, phase).set(seconds)

    # --- from the API process -----------------------------------------------------------------------------------------

    def add(self, name: str, amount: float) -> None:
        """Add to the counter `name` of the table."""
        self._counters[name].inc(amount)

    def set(self, name: str, value: float) -> None:
        """Set the gauge `name` of the table."""
        self._gauges[name].set(value)

    def observe(self, name: str, value: float) -> None:
        """Record one observation in the histogram `name` of the table."""
        self._histograms[name].observe(value)

    def count_ended(self, reason: FinishReason) -> None:
        self._ended[reason].inc()

    def count_tier(self, tier: str) -> None:
        self._counters["service_tier_requests_total"].labels(self._model_name, tier).inc()

    def count_tool_call(self, parser: str, *, is_complete: bool) -> None:
        outcome = "complete" if is_complete else "incomplete"
        self._counters["tool_calls_total"].labels(self._model_name, parser, outcome).inc()

    def count_http(self, method: str, route: str, status: int) -> None:
        """Count an answered request; the caller keeps the number of different label values bounded."""
        self._counters["http_requests_total"].labels(method, route, str(status)).inc()
