"""Metrics: sets and counts the values of the table's metrics, for one model."""

import time
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import Counter, Gauge, Histogram

from engine.client.interface import RestartReason
from engine.client.queue.first_token import FirstToken
from engine.errors import ShedReason
from engine.protocol import AdapterStats, EngineInfo, FinishReason, StepStats
from server.metrics.families import Families
from server.metrics.request_record import RequestRecord
from server.metrics.spec import MODEL, MetricSpec, MetricType, Read
from server.metrics.table import METRICS

_MAX_EXPERT_LABELS = 256
_MIN_EXPECTED_S = 0.1  # of a first token; a shorter time is that of a step, not of a wait

_WASTING = (FinishReason.ABORT, FinishReason.ERROR)  # ends of choices whose tokens were computed in vain
# Counter -> values of its label whose series exist from the start.
_AT_ZERO: dict[str, Iterable[str]] = {
    "request_success_total": FinishReason,
    "wasted_tokens_total": _WASTING,
    "requests_shed_total": ShedReason,
    "engine_restarts_total": RestartReason,
    "api_keys_reloads_total": ("loaded", "failed"),
    "pulls_total": ("complete", "failed", "stopped"),
}

Metric = Counter | Gauge | Histogram


class Metrics:
    """Values of one model's metrics, and of metrics that all models share. Counters survive an engine's restart."""

    def __init__(self, model_name: str, *, has_vllm_names: bool = False, families: Families | None = None) -> None:
        """has_vllm_names: also export metrics under vLLM's names. families: shared with the server's other models."""
        self.model_name = model_name
        self._families = families or Families(has_vllm_names=has_vllm_names)
        self._families.processes.pids[model_name] = None
        self._key_labels = self._families.key_labels
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        self._own_labels: dict[str, tuple[str, ...]] = {}  # the model's name for metrics that have it as a label
        self._step_increments: list[tuple[Read, Callable[[float], None]]] = []
        self._step_values: list[tuple[Read, Callable[[float], None]]] = []  # of gauges and histograms
        for spec in METRICS:
            self._bind(spec)
        self._adapters: AdapterStats | None = None  # of the last step that changed something
        self._info_labels: dict[str, tuple[str, ...]] = {}
        for name, values in _AT_ZERO.items():
            for value in values:
                self.add(name, 0, value)
        # Bound, since each token calls them. No exemplar: it would cost more than the rest.
        self.count_tokens: Callable[[float], None] = self._counters["generation_tokens_total"].inc
        self.observe_gap: Callable[[float], None] = self._histograms["inter_token_latency_seconds"].observe

    def for_model(self, model_name: str) -> "Metrics":
        """Return the Metrics of another model of the same server."""
        return Metrics(model_name, families=self._families)

    def _bind(self, spec: MetricSpec) -> None:
        """Set up a metric for updates, bound to the model's name if that is its only label."""
        self._own_labels[spec.name] = own = (self.model_name,) if MODEL in spec.labels else ()
        bound = own if len(spec.labels) == 1 else ()
        match spec.type:
            case MetricType.COUNTER:
                counter = self._families.counters[spec.name]
                self._counters[spec.name] = counter.labels(*bound) if bound else counter
            case MetricType.GAUGE:
                gauge = self._families.gauges[spec.name]
                self._gauges[spec.name] = gauge.labels(*bound) if bound else gauge
            case MetricType.HISTOGRAM:
                histogram = self._families.histograms[spec.name]
                self._histograms[spec.name] = histogram.labels(*bound) if bound else histogram
        readers = self._step_increments if spec.type is MetricType.COUNTER else self._step_values
        if spec.step is not None:
            readers.append((spec.step, _writer(self._metric(spec.name))))
        for value, read in spec.step_by.items():
            readers.append((read, _writer(self._metric(spec.name).labels(self.model_name, value))))

    def _metric(self, name: str) -> Metric:
        return self._counters.get(name) or self._gauges.get(name) or self._histograms[name]

    def scrape(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics as text, in the format that the Accept header asks for, and the content type."""
        return self._families.scrape(accept)

    # --- from the engine's client -------------------------------------------------------------------------------------

    def on_step(self, stats: StepStats) -> None:
        """Record the statistics of one engine step."""
        for read, write in self._step_increments:
            if increment := read(stats):  # most are 0 in most steps
                write(increment)
        for read, write in self._step_values:
            if (value := read(stats)) is not None:
                write(value)
        for idle_s, count in stats.evicted_blocks:
            self.add("kv_cache_evictions_total", count)
            for _ in range(count):
                self.observe("kv_block_idle_before_evict_seconds", idle_s)
        if stats.audit is not None:
            self.add("spec_decode_audits_total", 1, stats.audit.value)
        for position, count in enumerate(stats.accepted_by_position):
            self.add("spec_decode_num_accepted_tokens_per_pos_total", count, str(position))
        self._count_experts(stats.expert_rows)
        if stats.adapters is not None or self._adapters is not None:
            self._set_adapters(stats.adapters or AdapterStats())  # without statistics, the engine has ended
        for outcome, seconds in stats.grammar_compile_s.items():
            self.add("grammar_compilations_total", len(seconds), outcome)
            for compile_s in seconds:
                self.observe("grammar_compile_time_seconds", compile_s)

    def _count_experts(self, rows: list[int]) -> None:
        """Count the rows that each MoE expert computed. A series is created when its count is first above 0. With very
        many experts, a label is a range of experts."""
        width = max(1, -(-len(rows) // _MAX_EXPERT_LABELS))
        for first in range(0, len(rows), width):
            if count := sum(rows[first : first + width]):
                last = min(first + width, len(rows)) - 1
                label = str(first) if width == 1 else f"{first}-{last}"
                self.add("expert_rows_total", count, label)

    def _set_adapters(self, stats: AdapterStats) -> None:
        if stats == self._adapters and not stats.fill_s and not stats.evictions:
            return
        self._adapters = stats
        names = (",".join(stats.running), ",".join(stats.waiting), str(stats.slots_total))
        self._set_info("lora_requests_info", time.time(), *names)
        num_empty = stats.slots_total - stats.slots_used - stats.slots_cached
        for state, number in (("used", stats.slots_used), ("cached", stats.slots_cached), ("empty", num_empty)):
            self.set("lora_slots", number, state)
        self.set("lora_adapters_in_memory", stats.on_host)
        self.add("lora_loads_total", len(stats.fill_s))
        self.add("lora_evictions_total", stats.evictions)
        for seconds in stats.fill_s:
            self.observe("lora_load_time_seconds", seconds)

    def _set_info(self, name: str, value: float, *labels: str) -> None:
        """Set an info gauge, whose labels carry the values, and remove its former series, or they would pile up."""
        former = self._info_labels.get(name)
        if former == labels:
            return
        if former is not None:
            self._gauges[name].remove(self.model_name, *former)
        self._info_labels[name] = labels
        self.set(name, value, *labels)

    def on_first_token(self, prediction: FirstToken, real_s: float) -> None:
        """Record a request's predicted time to first token, and the ratio of actual to predicted time."""
        self.observe("predicted_time_to_first_token_seconds", prediction.expected_s)
        if prediction.expected_s >= _MIN_EXPECTED_S:
            self.observe("time_to_first_token_prediction_ratio", real_s / prediction.expected_s)

    def on_process(self, pid: int | None) -> None:
        """Set the pid of the running engine process; None if it has ended."""
        self._families.processes.pids[self.model_name] = pid

    def on_ready(self, info: EngineInfo, *, has_prefix_cache: bool) -> None:
        """Set the info gauge of the KV cache's shape, which may differ after a restart."""
        shape = (info.block_size, info.num_blocks, info.kv_bytes, info.kv_cache_dtype or info.dtype, has_prefix_cache)
        self._set_info("cache_config_info", 1, *map(str, shape))

    def count_spans(self, outcome: str, num_spans: int) -> None:
        """Count trace spans by outcome. May be called from any thread."""
        self.add("trace_spans_total", num_spans, outcome)

    def on_startup_phase(self, phase: str, seconds: float) -> None:
        self.set("startup_seconds", seconds, phase)

    # --- from the API process -----------------------------------------------------------------------------------------

    def add(self, name: str, amount: float, *labels: str) -> None:
        """Add to the counter `name` of the table. labels: values of its labels, without the model's name."""
        counter = self._counters[name]
        (counter.labels(*self._own_labels[name], *labels) if labels else counter).inc(amount)

    def set(self, name: str, value: float, *labels: str) -> None:
        """Set the gauge `name` of the table. labels: values of its labels, without the model's name."""
        gauge = self._gauges[name]
        (gauge.labels(*self._own_labels[name], *labels) if labels else gauge).set(value)

    def set_each(self, name: str, by_label: Mapping[str, float]) -> None:
        """Set the gauge `name` for each value of its label."""
        for label, value in by_label.items():
            self.set(name, value, label)

    def observe(self, name: str, value: float, *labels: str, trace_id: str | None = None) -> None:
        """Record one observation in the histogram `name`. labels: values of its labels, without the model's name.
        trace_id: exemplar for the observation's bucket."""
        histogram = self._histograms[name]
        exemplar = None if trace_id is None else {"trace_id": trace_id}
        (histogram.labels(*self._own_labels[name], *labels) if labels else histogram).observe(value, exemplar)

    def value(self, name: str) -> float:
        """Return the value of the counter or gauge `name`, which must have no label but the model's name."""
        metric = self._counters.get(name) or self._gauges[name]
        (family,) = metric.collect()
        return float(family.samples[0].value)

    def count_prompt_sources(self, num_tokens: int, num_cached: int) -> None:
        """Count a prompt's tokens by the source of their KV, cache or computation, once the prompt has started."""
        self.add("prompt_tokens_cached_total", num_cached)
        self.add("prompt_tokens_by_source_total", num_tokens - num_cached, "local_compute")
        self.add("prompt_tokens_by_source_total", num_cached, "local_cache_hit")
        self.observe("request_prefill_kv_computed_tokens", num_tokens - num_cached)

    def count_queue_time(self, outcome: str, queue_s: float, trace_id: str | None = None) -> None:
        """Observe a queue time. outcome: "scheduled", or the reason why the request ended before it ran."""
        self.observe("request_queue_time_seconds", queue_s, trace_id=trace_id)
        self.observe("queue_time_seconds", queue_s, outcome, trace_id=trace_id)

    def count_ended(self, reason: FinishReason, num_tokens: int) -> None:
        """Count an ended choice with `num_tokens` output tokens, by its finish reason."""
        self.add("request_success_total", 1, reason.value)
        self.observe("request_generation_tokens", num_tokens)
        if reason in _WASTING:
            self.add("wasted_tokens_total", num_tokens, reason.value)

    def count_http(self, record: RequestRecord) -> None:
        """Count an answered HTTP request. The number of label values is bounded."""
        labels = (record.method, record.route, str(record.status))
        self.add("http_requests_total", 1, *labels)
        self.observe("http_request_duration_seconds", record.http_s, *labels, trace_id=record.trace_id)
        self.observe("http_request_size_bytes", record.request_bytes, *labels)
        self.observe("http_response_size_bytes", record.response_bytes, *labels)

    def count_request(self, record: RequestRecord) -> None:
        """Count a finished request by route, outcome and error."""
        self.add("requests_total", 1, record.route, record.outcome.value, record.error_code or "none")
        if record.shed_reason is not None:
            self.add("requests_shed_total", 1, record.shed_reason.value)

    def count_key_usage(self, record: RequestRecord) -> None:
        """Count the request and its tokens for its key, if the key has a name."""
        if record.key_name is None:
            return
        key = self._key_labels.of(record.key_name)
        self.add("key_requests_total", 1, key, record.outcome.value)
        self.add("key_prompt_tokens_total", record.counted_prompt_tokens, key)
        self.add("key_cached_tokens_total", record.cached_tokens, key)
        self.add("key_output_tokens_total", record.output_tokens, key)

    def count_key_refusal(self, name: str, limit: str) -> None:
        self.add("key_refusals_total", 1, self._key_labels.of(name), limit)


def _writer(metric: Metric) -> Callable[[float], None]:
    """Return the function that records a value in the metric."""
    match metric:
        case Counter():
            return metric.inc
        case Gauge():
            return _on_change(metric.set)
    return metric.observe


def _on_change(write: Callable[[float], None]) -> Callable[[float], None]:
    """Return a function that writes a value only if it has changed. The gauge must have no other writer."""
    last: float | None = None

    def write_changed(value: float) -> None:
        nonlocal last
        if value != last:
            last = value
            write(value)

    return write_changed
