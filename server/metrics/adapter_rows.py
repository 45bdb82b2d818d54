"""Rows of the table about LoRA adapters; of an engine with --enable-lora, from StepStats.adapters."""

from server.metrics import buckets
from server.metrics.spec import MODEL, MetricSpec, MetricType, counter, gauge, histogram

ADAPTER_ROWS: tuple[MetricSpec, ...] = (
    MetricSpec(
        "lora_requests_info",
        MetricType.GAUGE,
        "Unix time of the last change. The labels name the adapters of running and of waiting requests, and how many "
        "can run at once (max_lora).",
        labels=(MODEL, "running_lora_adapters", "waiting_lora_adapters", "max_lora"),
        is_vllm=True,
    ),
    gauge(
        "lora_slots",
        "Adapter slots by state: used (by running requests, or by the next ones), cached (filled, but available for "
        "others), empty.",
        by="state",
    ),
    gauge("lora_adapters_in_memory", "Adapters in memory, in addition to those in slots (--max-cpu-loras)."),
    counter("lora_loads_total", "Adapters that were loaded into a slot."),
    histogram(
        "lora_load_time_seconds",
        "How long requests waited until an adapter was read and loaded into its slot.",
        buckets.STEP_S,
    ),
    counter("lora_evictions_total", "Adapters that were replaced in their slot by another one."),
)
