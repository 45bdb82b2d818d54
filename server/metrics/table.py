"""The table of all metrics: name, type, help, labels, and how each is read from the engine's StepStats.

Names, meanings and buckets follow vLLM's `vllm:*`, so dashboards carry over by renaming metrics, or unchanged
(server/metrics/vllm_names.py).
"""

from dataclasses import replace
from itertools import chain

from server.metrics.engine_rows import ENGINE_SECTIONS
from server.metrics.request_rows import REQUEST_SECTIONS
from server.metrics.server_rows import SERVER_SECTIONS
from server.metrics.spec import MetricSpec

SECTIONS: dict[str, tuple[MetricSpec, ...]] = {
    **ENGINE_SECTIONS,
    **REQUEST_SECTIONS,
    **SERVER_SECTIONS,
}

# Former name -> name, for one version after a metric is renamed.
FORMER_NAMES = {"spec_decode_realised_speedup": "spec_decode_realized_speedup"}


def _with_former_names(rows: dict[str, MetricSpec]) -> tuple[MetricSpec, ...]:
    former = (
        replace(rows[name], name=old, help=f"Former name of {rows[name].exported}; it is removed in the next version.")
        for old, name in FORMER_NAMES.items()
    )
    return (*rows.values(), *former)


METRICS: tuple[MetricSpec, ...] = _with_former_names({row.name: row for row in chain.from_iterable(SECTIONS.values())})
