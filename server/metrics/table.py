"""ONE table of metrics: name, type, help, labels, and how each is read from the engine's StepStats.

Names, meanings and buckets follow vLLM's `vllm:*`, so that dashboards move over by a rename, or without one
(server/metrics/vllm_names.py).
"""

from itertools import chain

from server.metrics.adapter_rows import ADAPTER_ROWS
from server.metrics.engine_rows import ENGINE_SECTIONS
from server.metrics.pooling_rows import POOLING_ROWS
from server.metrics.request_rows import REQUEST_SECTIONS
from server.metrics.server_rows import SERVER_SECTIONS
from server.metrics.spec import MetricSpec

SECTIONS: dict[str, tuple[MetricSpec, ...]] = {
    **ENGINE_SECTIONS,
    "Adapters": ADAPTER_ROWS,
    "Pooling": POOLING_ROWS,
    **REQUEST_SECTIONS,
    **SERVER_SECTIONS,
}

METRICS: tuple[MetricSpec, ...] = tuple(chain.from_iterable(SECTIONS.values()))
