"""ONE table of metrics: name, type, help, labels, and how each is read from the engine's StepStats.

Names, meanings and buckets follow vLLM's `vllm:*`, so that dashboards move over by a rename, or without one
(server/metrics/vllm_names.py).
"""

from server.metrics.engine_rows import ENGINE_ROWS
from server.metrics.server_rows import SERVER_ROWS
from server.metrics.spec import MetricSpec

METRICS: tuple[MetricSpec, ...] = (*ENGINE_ROWS, *SERVER_ROWS)
