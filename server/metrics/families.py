"""Families: registers all metrics of the table, in one Prometheus registry for all models of a server."""

import importlib.metadata
from collections.abc import Iterator

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import Metric as Family
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from server.metrics.spec import MODEL, PREFIX, MetricSpec, MetricType
from server.metrics.table import METRICS
from server.metrics.vllm_names import VllmNames

MAX_KEY_LABELS = 100
OTHER = "other"

_OPENMETRICS = "application/openmetrics-text"


class Families(Collector):
    """A server's Prometheus metrics, and their export."""

    def __init__(self, *, has_vllm_names: bool = False) -> None:
        """has_vllm_names: also export metrics under vLLM's names."""
        disable_created_metrics()  # otherwise each counter and histogram gets a second series with its creation time
        self.registry = CollectorRegistry()
        self.counters: dict[str, Counter] = {}
        self.gauges: dict[str, Gauge] = {}
        self.histograms: dict[str, Histogram] = {}
        for spec in METRICS:
            self._register(spec)
        self.gauges["build_info"].labels(importlib.metadata.version("headrace")).set(1)
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.key_labels = KeyLabels()
        self.processes = EngineProcesses()
        self.registry.register(self.processes)
        self._collectors: list[Collector] = [self.registry]
        if has_vllm_names:
            self._collectors.append(VllmNames(self.registry))

    def collect(self) -> Iterator[Family]:
        for collector in self._collectors:
            yield from collector.collect()

    def scrape(self, accept: str) -> tuple[bytes, str]:
        """Return all samples as text, and its content type. accept: Accept header; only OpenMetrics has exemplars."""
        kinds = (each.partition(";")[0].strip().lower() for each in accept.split(","))
        if _OPENMETRICS in kinds:
            # All names are plain; the library's default would write vLLM's without their colon.
            text = openmetrics.generate_latest(self, escaping=openmetrics.ALLOWUTF8)
            return text, openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(self), CONTENT_TYPE_LATEST

    def _register(self, spec: MetricSpec) -> None:
        name, labels, registry = spec.exported, spec.labels, self.registry
        match spec.type:
            case MetricType.COUNTER:
                self.counters[spec.name] = Counter(name, spec.help, labels, registry=registry, unit=spec.unit)
            case MetricType.GAUGE:
                self.gauges[spec.name] = Gauge(name, spec.help, labels, registry=registry, unit=spec.unit)
            case MetricType.HISTOGRAM:
                self.histograms[spec.name] = Histogram(
                    name, spec.help, labels, registry=registry, unit=spec.unit, buckets=spec.buckets
                )


class KeyLabels:
    """Label values for key names: the first MAX_KEY_LABELS names keep their own value, later ones get OTHER."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def of(self, name: str) -> str:
        if name not in self._known:
            if len(self._known) >= MAX_KEY_LABELS:
                return OTHER
            self._known.add(name)
        return name


class EngineProcesses(Collector):
    """Process metrics of the engines, such as CPU time and memory. They have the label of the model's name only if the
    server has several models."""

    def __init__(self) -> None:
        self.pids: dict[str, int | None] = {}  # by the model's name; None while there is no process

    def collect(self) -> Iterator[Family]:
        has_label = len(self.pids) > 1
        together: dict[str, Family] = {}
        for model_name, pid in self.pids.items():
            if pid is None:
                continue
            # If the process has just ended, /proc has no folder for it, and there are no samples.
            for family in ProcessCollector(PREFIX + "engine", lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
                whole = together.setdefault(family.name, Family(family.name, family.documentation, family.type))
                for sample in family.samples:
                    whole.add_sample(sample.name, {MODEL: model_name} if has_label else {}, sample.value)
        yield from together.values()
