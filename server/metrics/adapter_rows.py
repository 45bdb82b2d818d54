"""Rows of the table about LoRA adapters; of an engine with --enable-lora, from StepStats.adapters."""

from server.metrics import buckets
from server.metrics.spec import MODEL, MetricSpec, MetricType, counter, gauge, histogram

ADAPTER_ROWS: tuple[MetricSpec, ...] = (
    MetricSpec(
        "lora_requests_info",
        MetricType.GAUGE,
        "Unix time of the last change; the labels name the adapters of running and of waiting requests, and say how "
        "many may run at once (max_lora).",
        labels=(MODEL, "running_lora_adapters", "waiting_lora_adapters", "max_lora"),
        is_vllm=True,
    ),
    gauge(
        "lora_slots",
        "Slots of adapters by state: used (by running requests, or next ones), cached (filled, and free for others), "
        "empty.",
        by="state",
    ),
    gauge("lora_adapters_in_memory", "Adapters in memory, beside those in slots (--max-cpu-loras)."),
    counter("lora_loads_total", "Adapters that were put into a slot."),
    histogram(
        "lora_load_time_seconds", "How long requests waited until an adapter was read and in its slot.", buckets.STEP_S
    ),
    counter("lora_evictions_total", "Adapters that left their slot for another one."),
)
