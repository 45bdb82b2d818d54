"""AdapterValues: metrics of one model's LoRA adapters."""

import time
from collections.abc import Mapping

from prometheus_client import Counter, Gauge, Histogram

from engine.protocol import AdapterStats


class AdapterValues:
    """Metrics of one model's adapters. In steps in which nothing changes, `on_step` costs a comparison."""

    def __init__(
        self,
        model_name: str,
        counters: Mapping[str, Counter],
        gauges: Mapping[str, Gauge],
        histograms: Mapping[str, Histogram],
    ) -> None:
        """Take the metrics by their names in the table, bound to the model's name where that is their only label."""
        self._model_name = model_name
        self._counters = counters
        self._gauges = gauges
        self._histograms = histograms
        self._last: AdapterStats | None = None
        self._info_labels: tuple[str, ...] | None = None

    def on_step(self, stats: AdapterStats | None) -> None:
        """Record one step's statistics; None from an engine without adapters, or if the engine has ended."""
        if stats is None:
            if self._last is None:
                return
            stats = AdapterStats()
        if stats == self._last and not stats.fill_s and not stats.evictions:
            return
        self._last = stats
        self._set_info(stats)
        num_empty = stats.slots_total - stats.slots_used - stats.slots_cached
        for state, number in (("used", stats.slots_used), ("cached", stats.slots_cached), ("empty", num_empty)):
            self._gauges["lora_slots"].labels(self._model_name, state).set(number)
        self._gauges["lora_adapters_in_memory"].set(stats.on_host)
        self._counters["lora_loads_total"].inc(len(stats.fill_s))
        self._counters["lora_evictions_total"].inc(stats.evictions)
        for seconds in stats.fill_s:
            self._histograms["lora_load_time_seconds"].observe(seconds)

    def _set_info(self, stats: AdapterStats) -> None:
        """Set the one series of lora_requests_info; a series for each set of names would pile up."""
        labels = (self._model_name, ",".join(stats.running), ",".join(stats.waiting), str(stats.slots_total))
        if labels == self._info_labels:
            return
        gauge = self._gauges["lora_requests_info"]
        if self._info_labels is not None:
            gauge.remove(*self._info_labels)
        self._info_labels = labels
        gauge.labels(*labels).set(time.time())
