"""Metrics: the values of the metrics in the table, for one model."""

from collections.abc import Callable, Mapping

from prometheus_client import Counter, Gauge, Histogram

from engine.client.interface import RestartReason
from engine.client.queue.first_token import FirstToken
from engine.errors import ShedReason
from engine.protocol import EngineInfo, FinishReason, StepStats
from server.metrics.adapter_values import AdapterValues
from server.metrics.families import Families
from server.metrics.request_record import RequestRecord
from server.metrics.spec import MODEL, MetricSpec, MetricType, Read
from server.metrics.table import METRICS

_MAX_EXPERT_LABELS = 256
_MIN_EXPECTED_S = 0.1  # of a first token; a shorter time is that of a step, not of a wait

Metric = Counter | Gauge | Histogram


class Metrics:
    """Values of one model, and of the metrics that all models share. Counters live here, so they survive an engine's
    restart."""

    def __init__(self, model_name: str, *, has_vllm_names: bool = False, families: Families | None = None) -> None:
        """has_vllm_names: also export metrics under vLLM's names. families: of another model of the same server."""
        self.model_name = model_name
        self._families = families or Families(has_vllm_names=has_vllm_names)
        self._families.processes.pids[model_name] = None
        self._key_labels = self._families.key_labels
        self._cache_labels: tuple[str, ...] | None = None
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        self._step_increments: list[tuple[Read, Callable[[float], None]]] = []
        self._step_values: list[tuple[Read, Callable[[float], None]]] = []  # of gauges and histograms
        for spec in METRICS:
            self._bind(spec)
        self._adapters = AdapterValues(model_name, self._counters, self._gauges, self._histograms)
        ended = self._counters["request_success_total"]
        self._ended = {reason: ended.labels(model_name, reason.value) for reason in FinishReason}
        wasted = self._counters["wasted_tokens_total"]
        self._wasted = {
            each: wasted.labels(model_name, each.value) for each in (FinishReason.ABORT, FinishReason.ERROR)
        }
        shed = self._counters["requests_shed_total"]
        self._shed = {reason: shed.labels(model_name, reason.value) for reason in ShedReason}
        restarts = self._counters["engine_restarts_total"]
        self._restarts = {reason: restarts.labels(model_name, reason.value) for reason in RestartReason}
        reloads = self._counters["api_keys_reloads_total"]
        self._reloads = {outcome: reloads.labels(outcome) for outcome in ("loaded", "failed")}

    def for_model(self, model_name: str) -> "Metrics":
        """Return the values of another model of the same server."""
        return Metrics(model_name, families=self._families)

    def _bind(self, spec: MetricSpec) -> None:
        """Add the metric of a row, bound to the model's name where that is its only label."""
        bound = (self.model_name,) if spec.labels == (MODEL,) else ()
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

    def render(self) -> bytes:
        """Return all values in Prometheus's text format."""
        return self.scrape("")[0]

    def scrape(self, accept: str) -> tuple[bytes, str]:
        """Return all values in the format that the header `accept` asks for, and its content type."""
        return self._families.scrape(accept)

    # --- from the engine's client -------------------------------------------------------------------------------------

    def on_step(self, stats: StepStats) -> None:
        """Record the statistics of one step."""
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
            self._counters["spec_decode_audits_total"].labels(self.model_name, stats.audit.value).inc()
        for position, count in enumerate(stats.accepted_by_position):
            self._accepted_at(position).inc(count)
        self._count_experts(stats.expert_rows)
        self._adapters.on_step(stats.adapters)
        for outcome, seconds in stats.grammar_compile_s.items():
            self._counters["grammar_compilations_total"].labels(self.model_name, outcome).inc(len(seconds))
            for compile_s in seconds:
                self.observe("grammar_compile_time_seconds", compile_s)

    def _accepted_at(self, position: int) -> Counter:
        return self._counters["spec_decode_num_accepted_tokens_per_pos_total"].labels(self.model_name, str(position))

    def _count_experts(self, rows: list[int]) -> None:
        """Count the rows of each expert. A series is created when its count is first above 0. With very many experts, a
        label is a range."""
        width = max(1, -(-len(rows) // _MAX_EXPERT_LABELS))
        counter = self._counters["expert_rows_total"]
        for first in range(0, len(rows), width):
            if count := sum(rows[first : first + width]):
                last = min(first + width, len(rows)) - 1
                label = str(first) if width == 1 else f"{first}-{last}"
                counter.labels(self.model_name, label).inc(count)

    def on_discarded(self, num_tokens: int) -> None:
        self.add("discarded_tokens_total", num_tokens)

    def on_first_token(self, prediction: FirstToken, real_s: float) -> None:
        """Compare the predicted time to a request's first token with the real one."""
        self.observe("predicted_time_to_first_token_seconds", prediction.expected_s)
        if prediction.expected_s >= _MIN_EXPECTED_S:
            self.observe("time_to_first_token_prediction_ratio", real_s / prediction.expected_s)

    def on_restart(self, reason: RestartReason) -> None:
        self._restarts[reason].inc()

    def on_process(self, pid: int | None) -> None:
        """Note the pid of the engine process that runs from now on; None if it has ended."""
        self._families.processes.pids[self.model_name] = pid

    def on_ready(self, info: EngineInfo, *, has_prefix_cache: bool) -> None:
        """Set the labels for the KV cache's shape, which may differ after a restart."""
        gauge = self._gauges["cache_config_info"]
        if self._cache_labels is not None:
            gauge.remove(*self._cache_labels)
        shape = (info.block_size, info.num_blocks, info.kv_bytes, info.dtype, has_prefix_cache)
        self._cache_labels = (self.model_name, *map(str, shape))
        gauge.labels(*self._cache_labels).set(1)

    def count_closed_connection(self, reason: str) -> None:
        self._counters["http_connections_closed_total"].labels(reason).inc()

    def count_spans(self, outcome: str, num_spans: int) -> None:
        """Count spans. May be called from any thread."""
        self._counters["trace_spans_total"].labels(outcome).inc(num_spans)

    def on_startup_phase(self, phase: str, seconds: float) -> None:
        self._gauges["startup_seconds"].labels(self.model_name, phase).set(seconds)

    # --- from the API process -----------------------------------------------------------------------------------------

    def add(self, name: str, amount: float) -> None:
        """Add to the counter `name` of the table."""
        self._counters[name].inc(amount)

    def set(self, name: str, value: float) -> None:
        """Set the gauge `name` of the table."""
        self._gauges[name].set(value)

    def observe(self, name: str, value: float, trace_id: str | None = None) -> None:
        """Record one observation in the histogram `name` of the table. trace_id: an exemplar for its bucket."""
        self._histograms[name].observe(value, _exemplar(trace_id))

    def value(self, name: str) -> float:
        """Return the value of the counter or gauge `name`, which must have no label but the model's name."""
        metric = self._counters.get(name) or self._gauges[name]
        (family,) = metric.collect()
        return float(family.samples[0].value)

    def count_prompt_sources(self, num_tokens: int, num_cached: int) -> None:
        """Count where the keys and values of a prompt came from, once it has started to run."""
        self.add("prompt_tokens_cached_total", num_cached)
        by_source = self._counters["prompt_tokens_by_source_total"]
        by_source.labels(self.model_name, "local_compute").inc(num_tokens - num_cached)
        by_source.labels(self.model_name, "local_cache_hit").inc(num_cached)
        self.observe("request_prefill_kv_computed_tokens", num_tokens - num_cached)

    def count_queue_time(self, outcome: str, queue_s: float, trace_id: str | None = None) -> None:
        """outcome: "scheduled", or the reason why the request ended before it ran. trace_id: as in `observe`."""
        self.observe("request_queue_time_seconds", queue_s, trace_id)
        by_outcome = self._histograms["queue_time_seconds"].labels(self.model_name, outcome)
        by_outcome.observe(queue_s, _exemplar(trace_id))

    def count_ended(self, reason: FinishReason, num_tokens: int) -> None:
        """Count a choice that ended with `num_tokens`."""
        self._ended[reason].inc()
        self.observe("request_generation_tokens", num_tokens)
        if reason in self._wasted:
            self._wasted[reason].inc(num_tokens)

    def count_tier(self, tier: str) -> None:
        self._counters["service_tier_requests_total"].labels(self.model_name, tier).inc()

    def count_pooled(self, task: str, outcome: str, num_inputs: int) -> None:
        self._counters["pooling_inputs_total"].labels(self.model_name, task, outcome).inc(num_inputs)

    def count_tool_call(self, parser: str, *, is_complete: bool) -> None:
        outcome = "complete" if is_complete else "incomplete"
        self._counters["tool_calls_total"].labels(self.model_name, parser, outcome).inc()

    def count_http(self, record: RequestRecord) -> None:
        """Count an answered request; its labels have a bounded number of values."""
        labels = (record.method, record.route, str(record.status))
        self._counters["http_requests_total"].labels(*labels).inc()
        durations = self._histograms["http_request_duration_seconds"].labels(*labels)
        durations.observe(record.http_s, _exemplar(record.trace_id))
        self._histograms["http_request_size_bytes"].labels(*labels).observe(record.request_bytes)
        self._histograms["http_response_size_bytes"].labels(*labels).observe(record.response_bytes)

    def count_request(self, record: RequestRecord) -> None:
        """Count a request that is over, with its generation."""
        labels = (record.route, record.outcome.value, record.error_code or "none")
        self._counters["requests_total"].labels(*labels).inc()
        if record.shed_reason is not None:
            self._shed[record.shed_reason].inc()

    def count_key_usage(self, record: RequestRecord) -> None:
        """Count the request if its key has a name."""
        if record.key_name is None:
            return
        key = self._key_labels.of(record.key_name)
        self._counters["key_requests_total"].labels(key, record.outcome.value).inc()
        self._counters["key_prompt_tokens_total"].labels(key).inc(record.counted_prompt_tokens)
        self._counters["key_cached_tokens_total"].labels(key).inc(record.cached_tokens)
        self._counters["key_output_tokens_total"].labels(key).inc(record.output_tokens)

    def count_key_refusal(self, name: str, limit: str) -> None:
        self._counters["key_refusals_total"].labels(self._key_labels.of(name), limit).inc()

    def count_batch_lines(self, outcome: str, num_lines: int) -> None:
        self._counters["batch_lines_total"].labels(outcome).inc(num_lines)

    def set_batches(self, by_status: Mapping[str, int]) -> None:
        for status, count in by_status.items():
            self._gauges["batches"].labels(status).set(count)

    def set_finetuning_jobs(self, by_status: Mapping[str, int]) -> None:
        for status, count in by_status.items():
            self._gauges["finetune_jobs"].labels(status).set(count)

    def count_keys_reload(self, outcome: str) -> None:
        self._reloads[outcome].inc()


def _exemplar(trace_id: str | None) -> dict[str, str] | None:
    return None if trace_id is None else {"trace_id": trace_id}


def _writer(metric: Metric) -> Callable[[float], None]:
    """Return the function that takes the value of a step."""
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
