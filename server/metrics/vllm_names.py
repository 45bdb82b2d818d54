"""VllmNames: exports metrics under vLLM's names and labels too, converted at each scrape."""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import Exemplar, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.metrics.spec import PREFIX, MetricSpec, MetricType
from server.metrics.table import METRICS
from server.paths import MONITORING

Labels = dict[str, str]

_ENGINE = {"engine": "0"}  # vLLM numbers its engines; headrace has one
# Our name -> a different name in vLLM, now or in the past, that routers and dashboards for vLLM query.
_OTHER_NAMES = {
    "model_read_bytes": "estimated_read_bytes_per_gpu",
    "model_written_bytes": "estimated_write_bytes_per_gpu",
    "model_flops": "estimated_flops_per_gpu",
    "kv_cache_usage_perc": "gpu_cache_usage_perc",
    "prefix_cache_queries": "gpu_prefix_cache_queries",
    "prefix_cache_hits": "gpu_prefix_cache_hits",
    "inter_token_latency_seconds": "time_per_output_token_seconds",
}
_UNCOUNTED_ROUTES = MONITORING | {"/version"}  # not counted in vLLM's HTTP metrics


class VllmNames(Collector):
    """Copies a registry's metrics with vLLM's labels; values that differ only in other labels are added up."""

    def __init__(self, registry: Collector) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        families = {family.name: family for family in self._registry.collect()}
        for spec in METRICS:
            if spec.is_vllm:
                name = _family_name(spec)
                yield _copy(families[name], "vllm:" + name.removeprefix(PREFIX), _with_engine)
        for name, other in _OTHER_NAMES.items():
            yield _copy(families[PREFIX + name], "vllm:" + other, _with_engine)
        yield _copy(families[PREFIX + "cache_config_info"], "vllm:cache_config_info", _cache_config)
        yield _copy(families[PREFIX + "http_requests"], "http_requests", _handler_with_status)
        durations = families[PREFIX + "http_request_duration_seconds"]
        yield _copy(durations, "http_request_duration_seconds", _handler)
        yield _copy(durations, "http_request_duration_highr_seconds", _all_handlers)
        for size in ("http_request_size_bytes", "http_response_size_bytes"):
            yield _copy(families[PREFIX + size], size, _handler_alone, type="summary")
        yield from _awake(families[PREFIX + "engine_ready"])


def _family_name(spec: MetricSpec) -> str:
    """Return the name of the metric's family, which for counters lacks the suffix of the samples."""
    return spec.exported.removesuffix("_total") if spec.type is MetricType.COUNTER else spec.exported


def _copy(family: Metric, name: str, relabel: Callable[[Labels], Labels | None], *, type: str | None = None) -> Metric:
    """Copy the family under another name. relabel: returns the new labels of a sample, or None to leave it out; samples
    with equal labels are added up. type: replaces the family's."""
    sums: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    exemplars: dict[tuple[str, tuple[tuple[str, str], ...]], Exemplar] = {}
    for sample in family.samples:
        labels = relabel(sample.labels)
        if labels is not None:
            key = (name + sample.name.removeprefix(family.name), tuple(labels.items()))
            sums[key] = sums.get(key, 0.0) + sample.value
            if sample.exemplar is not None:
                exemplars[key] = sample.exemplar
    copy = Metric(name, family.documentation, type or family.type)
    for key, value in sums.items():
        copy.add_sample(key[0], dict(key[1]), value, exemplar=exemplars.get(key))
    return copy


def _with_engine(labels: Labels) -> Labels:
    return {**labels, **_ENGINE}


def _cache_config(labels: Labels) -> Labels:
    """Return the labels with vLLM's `num_gpu_blocks`, which routers read, as they read `block_size`."""
    return {**labels, **_ENGINE, "num_gpu_blocks": labels["num_blocks"]}


def _handler(labels: Labels) -> Labels | None:
    if labels["route"] in _UNCOUNTED_ROUTES:
        return None
    rest = {"le": labels["le"]} if "le" in labels else {}
    return {"handler": labels["route"], "method": labels["method"], **rest}


def _all_handlers(labels: Labels) -> Labels | None:
    handler = _handler(labels)
    return None if handler is None else {name: value for name, value in handler.items() if name == "le"}


def _handler_alone(labels: Labels) -> Labels | None:
    """Return the labels of a summary's sum or count; None for buckets, which a summary does not have."""
    handler = _handler(labels)
    return None if handler is None or "le" in handler else {"handler": handler["handler"]}


def _handler_with_status(labels: Labels) -> Labels | None:
    handler = _handler(labels)
    return None if handler is None else {**handler, "status": labels["status"][0] + "xx"}


def _awake(ready: Metric) -> Iterable[Metric]:
    """Yield vLLM's metric of the sleep state: a ready engine is awake; others have no samples."""
    awake = [sample.labels for sample in ready.samples if sample.value]
    if not awake:
        return
    family = GaugeMetricFamily(
        "vllm:engine_sleep_state",
        "Whether the engine is awake.",
        labels=[*awake[0], "engine", "sleep_state"],
    )
    for labels in awake:
        for state, value in (("awake", 1), ("weights_offloaded", 0), ("discard_all", 0)):
            family.add_metric([*labels.values(), "0", state], value)
    yield family
