"""Families: every metric of the table, its series not yet made, in one registry for all models of a server."""

import importlib.metadata
from collections.abc import Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from server.metrics.key_labels import KeyLabels
from server.metrics.spec import MODEL, PREFIX, MetricSpec, MetricType
from server.metrics.table import METRICS
from server.metrics.vllm_names import VllmNames


class Families:
    def __init__(self, *, has_vllm_names: bool = False) -> None:
        """has_vllm_names: export what vLLM has under its names, too."""
        disable_created_metrics()  # else each counter and histogram doubles its series with a creation time
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
        self.collectors: list[Collector] = [self.registry]
        if has_vllm_names:
            self.collectors.append(VllmNames(self.registry))

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


class EngineProcesses(Collector):
    """What the system knows of the engine processes. Of a server with one model it has no label, as that of any other
    program; those of several models have the model's name."""

    def __init__(self) -> None:
        self.pids: dict[str, int | None] = {}  # by the model's name; None while there is no process

    def collect(self) -> Iterator[Family]:
        has_label = len(self.pids) > 1
        together: dict[str, Family] = {}
        for model_name, pid in self.pids.items():
            if pid is None:
                continue
            # Where the process has just ended there is no such folder in /proc, and nothing to tell.
            for family in ProcessCollector(PREFIX + "engine", lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
                whole = together.setdefault(family.name, Family(family.name, family.documentation, family.type))
                for sample in family.samples:
                    whole.add_sample(sample.name, {MODEL: model_name} if has_label else {}, sample.value)
        yield from together.values()
